"""Which backend an operation runs by.

All give the same numbers within float tolerance. ``auto`` takes the fastest that can run; another choice is for
comparison and for finding faults: ``with use_backend('reference'): ...`` or the environment variable ``MMPARAX_OPS``.
"""
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from mmparax.errors import ParameterError, check_choice
from mmparax.ops.cpu.build import load_library
from mmparax.ops.triton import runs_on
from mmparax.utils.choices import BACKEND_VARIABLE, BACKENDS

_chosen: str | None = None  # None: what the variable says


@functools.lru_cache(None)
def _read_variable() -> str:
    """What ``MMPARAX_OPS`` says; not read when this module is imported, where no script could explain a wrong value."""
    return check_choice(BACKEND_VARIABLE, os.environ.get(BACKEND_VARIABLE, 'auto'), BACKENDS)


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run the operations inside by one of ``BACKENDS``, in every thread of the process."""
    global _chosen
    before, _chosen = _chosen, check_choice('backend', backend, BACKENDS)
    try:
        yield
    finally:
        _chosen = before


def get_backend() -> str:
    """The choice that holds now, one of ``BACKENDS``.

    Raises:
        ParameterError: if ``MMPARAX_OPS`` names none.
    """
    return _read_variable() if _chosen is None else _chosen


def select_backend(x: Tensor) -> str:
    """The backend, never ``'auto'``, that an operation on ``x`` runs by.

    Raises:
        ParameterError: if ``'cpu'`` was chosen and the type or device of ``x`` is none of its own. In half precision and
            under autocast the reference runs all the same.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return 'reference'  # the compiler fuses by itself, and a graph that leaves the process knows no custom functions
    chosen = get_backend()
    if chosen == 'auto' and x.is_cuda and x.dtype != torch.float64 and runs_on(x.device):
        return 'triton'
    if chosen in ('reference', 'triton'):
        return chosen
    # What is fused relies on single precision throughout.
    if x.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(x.device.type):
        return 'reference'
    if chosen == 'cpu' and not _can_run_in_c(x):
        raise ParameterError(
            'backend', 'cpu', f'this tensor is {x.dtype} on {str(x.device)!r}, and the operations in C '
            'take float32 and float64 on CPUs, on Linux with a C compiler', "Use backend 'auto'.")
    return 'fused' if chosen == 'fused' or not _can_run_in_c(x) else 'cpu'


def _can_run_in_c(x: Tensor) -> bool:
    """Whether the operations in C can run on ``x``; they are compiled at the first question."""
    plain = type(x) in (Tensor, torch.nn.Parameter)  # a stand-in, such as a FakeTensor, has no memory
    return plain and x.device.type == 'cpu' and x.numel() > 0 and load_library(x.dtype) is not None


def describe_backend(device: str | torch.device, dtype: torch.dtype = torch.float32, autocast: torch.dtype | None = None) -> str:
    """Which backend runs, in what, for a line of a log: ``'cpu (C, float32, 2 threads)'``.

    Args:
        device: of the features.
        dtype: of the features.
        autocast: the type of automatic mixed precision, or None without.

    Raises:
        ParameterError: if ``'cpu'`` was chosen and cannot run there.
    """
    device = torch.device(device)
    with torch.autocast(device.type, autocast) if autocast else nullcontext():
        backend = select_backend(torch.empty(1, device=device, dtype=dtype))
    numbers = str(autocast or dtype).removeprefix('torch.')
    if backend == 'cpu':
        threads = torch.get_num_threads() if load_library(dtype).has_openmp else 1
        return f'cpu (C, {numbers}, {threads} thread{"s" * (threads != 1)})'
    how = dict(reference='PyTorch, step by step', fused='PyTorch, fused autograd functions', triton='Triton kernels')[backend]
    return f'{backend} ({how}, {numbers})'
