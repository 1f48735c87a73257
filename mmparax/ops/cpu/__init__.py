"""The operations in C, for CPUs: compiled at their first use, in float32 and float64.

Tokens are worked on in groups of channels that stay in the cache from the first convolution to the last, instead of one pass
over memory for each step. Equal inputs give equal results, whatever the number of threads. Differentiable once.
"""
