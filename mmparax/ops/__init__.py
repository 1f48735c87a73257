"""Tensor operations without parameters, those of AdaRoute's adapter first.

``functional`` has the operations; each runs by one of several backends, which ``dispatch`` chooses. A backend is a folder with
the same operations under the same file names: ``reference`` (PyTorch, step by step, the definition), ``fused`` (PyTorch, in
autograd functions that keep less), ``cpu`` (C) and ``triton`` (NVIDIA GPUs). ``recompute`` spares memory, whatever the backend.
"""
