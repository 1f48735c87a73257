"""Synthetic scenes and glyphs that tests, examples and benchmarks train on, and SVHN."""
