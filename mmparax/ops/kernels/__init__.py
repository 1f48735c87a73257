"""The three fused operations of AdaRoute's adapter as Triton kernels, with their gradients.

Importing this package needs no Triton; calling one of its functions does. Tokens are contiguous, channel last, in
float32, float16 or bfloat16; sums are float32. Gradients of weights are sums of per-tile partial sums, never atomic
additions, so equal inputs give equal gradients. Differentiable once.
"""
from importlib import import_module
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mmparax.errors import bad_value
from mmparax.ops.paths import has_triton

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_ELEMENTS = 2**31  # in a sample: offsets inside it are 32-bit integers


def _run(module: str, x: Tensor, *args: Any) -> Any:
    """Check that Triton can work on ``x``, then call ``run`` of a module, imported at its first use."""
    if not has_triton():
        raise bad_value('path', 'triton', 'Triton, or the C compiler with Python\'s headers that it needs, is not installed here',
                        "Install it, or use path 'auto'.")
    module = import_module(f'{__name__}.{module}')
    if not (x.is_cuda or import_module(f'{__name__}.common').INTERPRETED):
        raise bad_value('path', 'triton', f'Triton runs on GPUs and this tensor is on {str(x.device)!r}',
                        "Use path 'auto', or start Python with TRITON_INTERPRET=1 to interpret the kernels, slowly.")
    if x.dtype not in DTYPES:
        raise bad_value('path', 'triton', f'the kernels take {", ".join(map(str, DTYPES))} and this tensor is {x.dtype}',
                        "Use path 'fused' or 'eager'.")
    if x.shape[1] * x.shape[2] >= MAX_ELEMENTS:
        raise bad_value('path', 'triton', f'a sample must have fewer than {MAX_ELEMENTS} elements and this one is '
                        f'{tuple(x.shape[1:])}', "Use path 'fused' or 'eager'.")
    with torch.cuda.device_of(x):
        return module.run(x, *args)


def scaled_norm_conv(x: Tensor, hw: Tuple[int, int], scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float,
                     conv_weight: Tensor, conv_bias: Tensor,
                     out_dtype: Optional[torch.dtype] = None) -> Tuple[Tensor, Tensor]:
    """``u = x + scale * LayerNorm(x)``, then ``u + depthwise3x3(u)``, and the mean of that over the tokens.

    Args:
        x: tokens (B, H*W, C).
        hw: (H, W).
        scale: (C,).
        norm_weight: (C,).
        norm_bias: (C,).
        eps: of the LayerNorm.
        conv_weight: (C, 1, 3, 3); zero padding.
        conv_bias: (C,).
        out_dtype: of the tokens returned; by default that of ``x``.

    Returns:
        tuple[Tensor, Tensor]: tokens (B, H*W, C) and their mean (B, C) in float32.

    Raises:
        ParameterError: where Triton cannot run.
    """
    return _run('norm_conv', x, hw, scale, norm_weight, norm_bias, eps, conv_weight, conv_bias, out_dtype or x.dtype)


def mix_spatially(z: Tensor, hw: Tuple[int, int], kernels: Sequence[Tensor], stage_mix: Optional[Tensor], layout: str,
                  score_weight: Optional[Tensor] = None, score_bias: Optional[Tensor] = None) -> Tensor:
    """Dynamic depthwise convolutions and their aggregation at each position (paper, figure 4).

    Args:
        z: tokens (B, H*W, r).
        hw: (H, W).
        kernels: n >= 1 tensors (B, r, 1, k, k), k odd.
        stage_mix: (2 * (n - 1),) for ``'sequential'``, (n - 1,) for ``'sequential_no_residual'``, else None.
        layout: one of ``CONV_LAYOUTS`` of the adapter.
        score_weight: (n, r) of the linear map that scores each position, or None for the plain mean.
        score_bias: (n,) or None.

    Returns:
        Tensor: (B, H*W, r).

    Raises:
        ParameterError: where Triton cannot run.
    """
    return _run('mixing', z, hw, layout, stage_mix, score_weight, score_bias, *kernels)


def conv_scale_shortcut(y: Tensor, hw: Tuple[int, int], conv_weight: Tensor, conv_bias: Tensor, layer_scale: Tensor,
                        layer_bias: Tensor, shortcut: Tensor, shortcut_scale: Optional[Tensor] = None,
                        shortcut_bias: Optional[Tensor] = None) -> Tensor:
    """``layer_scale * (y + depthwise3x3(y)) + layer_bias + shortcut_scale * shortcut + shortcut_bias``.

    Args:
        y: tokens (B, H*W, C).
        hw: (H, W).
        conv_weight: (C, 1, 3, 3); zero padding.
        conv_bias: (C,).
        layer_scale: (C,).
        layer_bias: (C,).
        shortcut: tokens (B, H*W, C).
        shortcut_scale: (C,), or None for the bare shortcut.
        shortcut_bias: (C,) or None, as ``shortcut_scale``.

    Returns:
        Tensor: (B, H*W, C), in the wider dtype of ``y`` and ``shortcut``.

    Raises:
        ParameterError: where Triton cannot run.
    """
    return _run('out_conv', y, hw, conv_weight, conv_bias, layer_scale, layer_bias, shortcut, shortcut_scale,
                shortcut_bias)
