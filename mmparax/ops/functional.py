"""The operations of AdaRoute's adapter. Each runs by the backend that ``dispatch`` selects, with the same result.

Paper: "Parameters as Experts: Adapting Vision Models with Dynamic Parameter Routing", section 3.2 and figures 2-4.
"""
from collections.abc import Sequence

import torch
from torch import Tensor

from mmparax.errors import ParameterError, check_choice
from mmparax.ops import triton
from mmparax.ops.arguments import check_map, check_tensors
from mmparax.ops.cpu import mixing as cpu_mixing
from mmparax.ops.cpu import norm_conv as cpu_norm_conv
from mmparax.ops.cpu import out_conv as cpu_out_conv
from mmparax.ops.dispatch import select_backend
from mmparax.ops.fused import experts as fused_experts
from mmparax.ops.fused import linear as fused_linear
from mmparax.ops.fused import mixing as fused_mixing
from mmparax.ops.fused import norm_conv as fused_norm_conv
from mmparax.ops.fused import out_conv as fused_out_conv
from mmparax.ops.fused.experts import sum_expert_gradients_once
from mmparax.ops.precision import find_product_dtype
from mmparax.ops.reference import experts as reference_experts
from mmparax.ops.reference import linear as reference_linear
from mmparax.ops.reference import mixing as reference_mixing
from mmparax.ops.reference import norm_conv as reference_norm_conv
from mmparax.ops.reference import out_conv as reference_out_conv
from mmparax.ops.reference.mixing import LAYOUTS
from mmparax.ops.reference.routing import route
from mmparax.ops.token_maps import HW

__all__ = [
    'LAYOUTS', 'conv_scale_shortcut', 'mix_expert_sets', 'mix_spatially', 'route', 'sample_linear', 'scaled_norm_conv',
    'sum_expert_gradients_once'
]

FACTORS = dict(sequential=2, sequential_no_residual=1, parallel=0)  # of each convolution but the first


def scaled_norm_conv(x: Tensor, hw: HW, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
                     bias: Tensor) -> tuple[Tensor, Tensor]:
    """``u = x + scale * LayerNorm(x); out = u + DWConv(u)`` and the mean of ``out`` over the tokens.

    Args:
        x: tokens (B, H*W, C).
        hw: (H, W).
        scale: (C,).
        norm_weight: (C,).
        norm_bias: (C,).
        eps: of the norm.
        weight: (C, 1, 3, 3).
        bias: (C,).

    Returns:
        tuple: out (B, H*W, C), under autocast perhaps in its type, and its mean (B, C), float32 (float64 for float64 input).
    """
    channels = check_map('x', x, hw)[2]
    row = (channels, )
    check_tensors(
        x,
        dict(scale=(scale, row), norm_weight=(norm_weight, row), norm_bias=(norm_bias, row), weight=(weight, (channels, 1, 3, 3)),
             bias=(bias, row)))
    arguments = (x, hw, scale, norm_weight, norm_bias, eps, weight, bias)
    backend = select_backend(x)
    if backend == 'reference':
        return reference_norm_conv.scaled_norm_conv(*arguments)
    if backend == 'triton':
        return triton.scaled_norm_conv(*arguments, out_dtype=find_product_dtype(x))
    return (cpu_norm_conv if backend == 'cpu' else fused_norm_conv).scaled_norm_conv(*arguments)


def mix_spatially(z: Tensor, hw: HW, kernels: Sequence[Tensor], stage_mix: Tensor | None, layout: str,
                  score_weight: Tensor | None, score_bias: Tensor | None) -> Tensor:
    """z, and the sum of its convolutions with one kernel after the other, weighted at each position.

    Args:
        z: latent tokens (B, H*W, r).
        hw: (H, W).
        kernels: n >= 1 of (B, r, 1, k_i, k_i).
        stage_mix: factors of the convolutions' inputs: (2 * (n - 1),) for ``'sequential'``, in the order a_1, b_1, a_2,
            ... of ``a_i * z + b_i * y_i``; (n - 1,), the b_i alone, for ``'sequential_no_residual'``; else None.
        layout: one of ``LAYOUTS``; in ``'parallel'`` every convolution reads z.
        score_weight: (n, r) of the linear map that scores the outputs at each position, or None for their mean.
        score_bias: (n,) or None.

    Returns:
        Tensor: (B, H*W, r).
    """
    batch, _, channels = check_map('z', z, hw)
    count = len(kernels)
    mixes = (max(count, 1) - 1) * FACTORS[check_choice('layout', layout, LAYOUTS)]
    if not count or (stage_mix is None) != (mixes == 0):
        raise ParameterError('kernels', count, f'layout={layout!r} needs at least one, and stage_mix of {mixes} factors')
    sides = [kernel.shape[-1] for kernel in kernels]
    if any(side % 2 == 0 for side in sides):
        raise ParameterError('kernels', sides, 'their sides must be odd')
    check_tensors(
        z,
        dict(
            stage_mix=(stage_mix, (mixes, )), score_weight=(score_weight, (count, channels)), score_bias=(score_bias, (count, )),
            **{
                f'kernels[{number}]': (kernel, (batch, channels, 1, side, side))
                for number, (kernel, side) in enumerate(zip(kernels, sides))
            }))
    arguments = (z, hw, kernels, stage_mix, layout, score_weight, score_bias)
    backend = select_backend(z)
    if backend == 'reference':
        return reference_mixing.mix_spatially(*arguments)
    if backend == 'triton':
        return triton.mix_spatially(*arguments)
    in_c = backend == 'cpu' and len(kernels) <= cpu_mixing.MAX_KERNELS
    return (cpu_mixing if in_c else fused_mixing).mix_spatially(*arguments)


def conv_scale_shortcut(y: Tensor, hw: HW, weight: Tensor, bias: Tensor, layer_scale: Tensor, layer_bias: Tensor,
                        shortcut: Tensor, shortcut_scale: Tensor | None, shortcut_bias: Tensor | None) -> Tensor:
    """``layer_scale * (y + DWConv(y)) + layer_bias + shortcut_scale * shortcut + shortcut_bias``.

    Args:
        y: tokens (B, H*W, C).
        hw: (H, W).
        weight: (C, 1, 3, 3).
        bias: (C,).
        layer_scale: (C,).
        layer_bias: (C,).
        shortcut: (B, H*W, C).
        shortcut_scale: (C,), or None for 1.
        shortcut_bias: (C,), or None for 0.

    Returns:
        Tensor: (B, H*W, C).
    """
    channels = check_map('y', y, hw)[2]
    row = (channels, )
    check_tensors(
        y,
        dict(weight=(weight, (channels, 1, 3, 3)), bias=(bias, row), layer_scale=(layer_scale, row), layer_bias=(layer_bias, row),
             shortcut=(shortcut, y.shape), shortcut_scale=(shortcut_scale, row), shortcut_bias=(shortcut_bias, row)))
    arguments = (y, hw, weight, bias, layer_scale, layer_bias, shortcut, shortcut_scale, shortcut_bias)
    backend = select_backend(shortcut)
    if backend == 'reference':
        return reference_out_conv.conv_scale_shortcut(*arguments)
    if backend == 'triton':
        return triton.conv_scale_shortcut(*arguments)
    return (cpu_out_conv if backend == 'cpu' else fused_out_conv).conv_scale_shortcut(*arguments)


def sample_linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight'`` of each sample.

    Args:
        x: (B, N, I).
        weight: (B, O, I).

    Returns:
        Tensor: (B, N, O).
    """
    return (reference_linear if select_backend(x) == 'reference' else fused_linear).sample_linear(x, weight)


def mix_expert_sets(gates: Sequence[Tensor], experts: Sequence[Tensor], dtype: torch.dtype, like: Tensor) -> list[Tensor]:
    """Weighted sums of several sets of experts for each sample.

    Args:
        gates: (B, M) for each set.
        experts: (M, ...) for each set.
        dtype: of the results.
        like: input of the adapter, to select the backend.

    Returns:
        list[Tensor]: (B, ...) for each set.
    """
    backend = reference_experts if select_backend(like) == 'reference' else fused_experts
    return backend.mix_expert_sets(gates, experts, dtype)
