"""Tensor operations without parameters."""
