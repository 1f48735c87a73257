"""The operations step by step, in PyTorch: the definition that every other backend equals; differentiable twice.

Runs under torch.compile and torch.export, in half precision on CPUs, and where no other backend can.
"""
