"""The operations as Triton kernels, with their gradients, for NVIDIA GPUs.

Importing this package needs no Triton; calling one of its operations does. Tokens are contiguous, channel last, in
float32, float16 or bfloat16; sums are float32. Gradients of weights are sums of per-tile partial sums, never atomic
additions, so equal inputs give equal gradients. Differentiable once.
"""
import functools
import os
import sysconfig
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mmparax.errors import ParameterError
from mmparax.ops.compiler import find_compiler
from mmparax.ops.token_maps import HW

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_ELEMENTS = 2**31  # in a sample: offsets inside it are 32-bit integers


@functools.lru_cache(None)
def has_triton() -> bool:
    """Whether Triton is installed, and a C compiler with Python's headers, by which it builds what calls its kernels."""
    headers = os.path.join(sysconfig.get_paths()['include'], 'Python.h')
    return find_spec('triton') is not None and find_compiler() is not None and os.path.isfile(headers)


@functools.lru_cache(None)
def runs_on(device: torch.device) -> bool:
    """Whether the kernels run on a GPU: they are compiled for NVIDIA's from Ampere on."""
    return has_triton() and torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def _run(name: str, x: Tensor, *args: Any) -> Any:
    """Check that Triton can work on ``x``, then call ``run`` of the module ``name``, imported at its first use."""
    if not has_triton():
        raise ParameterError('backend', 'triton', "Triton, or the C compiler with Python's headers that it needs, is not "
                             'installed here', "Install it, or use backend 'auto'.")
    module = import_module(f'mmparax.ops.triton.{name}')
    if not (x.is_cuda or import_module('mmparax.ops.triton.common').INTERPRETED):
        raise ParameterError('backend', 'triton', f'Triton runs on GPUs and this tensor is on {str(x.device)!r}',
                             "Use backend 'auto', or start Python with TRITON_INTERPRET=1 to interpret the kernels, slowly.")
    if x.dtype not in DTYPES:
        raise ParameterError('backend', 'triton', f'the kernels take {", ".join(map(str, DTYPES))} and this tensor is '
                             f'{x.dtype}', "Use backend 'fused' or 'reference'.")
    if x.shape[1] * x.shape[2] >= MAX_ELEMENTS:
        raise ParameterError('backend', 'triton', f'a sample must have fewer than {MAX_ELEMENTS} elements and this one is '
                             f'{tuple(x.shape[1:])}', "Use backend 'fused' or 'reference'.")
    with torch.cuda.device_of(x):
        return module.run(x, *args)


def scaled_norm_conv(x: Tensor, hw: HW, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
                     bias: Tensor, out_dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """:func:`mmparax.ops.functional.scaled_norm_conv`; the tokens come in ``out_dtype``, by default that of ``x``.

    Raises:
        ParameterError: where Triton cannot run.
    """
    return _run('norm_conv', x, hw, scale, norm_weight, norm_bias, eps, weight, bias, out_dtype or x.dtype)


def mix_spatially(z: Tensor, hw: HW, kernels: Sequence[Tensor], stage_mix: Tensor | None, layout: str,
                  score_weight: Tensor | None, score_bias: Tensor | None) -> Tensor:
    """:func:`mmparax.ops.functional.mix_spatially`.

    Raises:
        ParameterError: where Triton cannot run.
    """
    return z + sum_convolutions(z, hw, kernels, stage_mix, layout, score_weight, score_bias)


def sum_convolutions(z: Tensor, hw: HW, kernels: Sequence[Tensor], stage_mix: Tensor | None, layout: str,
                     score_weight: Tensor | None, score_bias: Tensor | None) -> Tensor:
    """:func:`mix_spatially` without z itself."""
    return _run('mixing', z, hw, layout, stage_mix, score_weight, score_bias, *kernels)


def conv_scale_shortcut(y: Tensor, hw: HW, weight: Tensor, bias: Tensor, layer_scale: Tensor, layer_bias: Tensor,
                        shortcut: Tensor, shortcut_scale: Tensor | None, shortcut_bias: Tensor | None) -> Tensor:
    """:func:`mmparax.ops.functional.conv_scale_shortcut`, in the wider type of ``y`` and ``shortcut``.

    Raises:
        ParameterError: where Triton cannot run.
    """
    return _run('out_conv', y, hw, weight, bias, layer_scale, layer_bias, shortcut, shortcut_scale, shortcut_bias)
