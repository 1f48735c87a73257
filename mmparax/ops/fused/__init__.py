"""The operations as PyTorch autograd functions: fewer passes over memory, less kept for the backward; differentiable once."""
