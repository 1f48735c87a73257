"""Which implementation of an operation runs: the eager reference, fused autograd functions, C for CPUs, or Triton kernels.

All give the same numbers within float tolerance. ``auto`` takes the fastest that can run; another choice is for
comparison and for finding faults: ``with use_path('eager'): ...`` or the environment variable ``MMPARAX_OPS``.
"""
import functools
import importlib
import importlib.util
import os
import sysconfig
from contextlib import contextmanager
from types import ModuleType
from typing import Iterator

import torch
from torch import Tensor

from mmparax.errors import bad_value, check_choice
from mmparax.ops.native.build import compiler
from mmparax.ops.native.build import library as native_library

PATHS = ('auto', 'eager', 'fused', 'native', 'triton')
VARIABLE = 'MMPARAX_OPS'
_chosen = check_choice(VARIABLE, os.environ.get(VARIABLE, 'auto'), PATHS)


@contextmanager
def use_path(path: str) -> Iterator[None]:
    """Run the operations inside by one of ``PATHS``, in every thread of the process."""
    global _chosen
    before, _chosen = _chosen, check_choice('path', path, PATHS)
    try:
        yield
    finally:
        _chosen = before


def chosen_path() -> str:
    """One of ``PATHS``."""
    return _chosen


@functools.lru_cache(None)
def has_triton() -> bool:
    """Whether Triton is installed, and a C compiler with Python's headers, by which it builds what calls its kernels."""
    headers = os.path.join(sysconfig.get_paths()['include'], 'Python.h')
    return importlib.util.find_spec('triton') is not None and compiler() is not None and os.path.isfile(headers)


@functools.lru_cache(None)
def runs_triton(device: torch.device) -> bool:
    """Whether the kernels run on a GPU: they are compiled for NVIDIA's from Ampere on."""
    return has_triton() and torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def path_for(x: Tensor) -> str:
    """The path, never ``'auto'``, that an operation on ``x`` takes."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return 'eager'  # the compiler fuses by itself, and a graph that leaves the process knows no custom functions
    if _chosen == 'auto' and x.is_cuda and x.dtype != torch.float64 and runs_triton(x.device):
        return 'triton'
    if _chosen in ('eager', 'triton'):
        return _chosen
    # What is fused relies on single precision throughout.
    if x.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(x.device.type):
        return 'eager'
    if _chosen == 'native' and not has_native(x):
        raise bad_value('path', 'native', f'this tensor is {x.dtype} on {str(x.device)!r}, and the operations in C take '
                        'float32 and float64 on CPUs, on Linux with a C compiler', "Use path 'auto'.")
    return 'fused' if _chosen == 'fused' or not has_native(x) else 'native'


def has_native(x: Tensor) -> bool:
    """Whether the operations in C can run on ``x``; they are compiled at the first question."""
    plain = type(x) in (Tensor, torch.nn.Parameter)  # a stand-in, such as a FakeTensor, has no memory
    return plain and x.device.type == 'cpu' and x.numel() > 0 and native_library(x.dtype) is not None


def native_ops() -> ModuleType:
    """The autograd functions over the operations in C; this module is needed by theirs."""
    return importlib.import_module('mmparax.ops.native.functions')


def triton_ops() -> ModuleType:
    """The Triton kernels, imported when they are first needed: Triton exists for Linux alone."""
    return importlib.import_module('mmparax.ops.kernels')
