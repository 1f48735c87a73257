"""Dynamic multi-scale spatial mixing (paper: AdaRoute, section 3.2 and figure 4).

Depthwise convolutions, each sample with kernels of its own, one after the other with residuals, and a weighted sum of
their outputs whose weights differ from position to position ("SA").
"""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmparax.ops.precision import disable_autocast, find_sum_dtype
from mmparax.ops.reference.depthwise import convolve_dynamically
from mmparax.ops.token_maps import HW, map_to_tokens, tokens_to_map

LAYOUTS = ('sequential', 'sequential_no_residual', 'parallel')


def mix_spatially(z: Tensor, hw: HW, kernels: Sequence[Tensor], stage_mix: Tensor | None, layout: str,
                  score_weight: Tensor | None, score_bias: Tensor | None) -> Tensor:
    """:func:`mmparax.ops.functional.mix_spatially`, step by step."""
    source = tokens_to_map(z, hw)
    maps: list[Tensor] = []
    for i, kernel in enumerate(kernels):
        maps.append(convolve_dynamically(find_source(source, maps, i, layout, stage_mix), kernel))
    return z + map_to_tokens(maps[0] if len(maps) == 1 else aggregate(torch.stack(maps), score_weight, score_bias))


def find_source(z: Tensor, outputs: Sequence[Tensor], index: int, layout: str, factors: Any) -> Tensor:
    """What the convolution ``index`` reads; ``factors``: the stage mix, or its values as numbers."""
    if index == 0 or layout == 'parallel':
        return z
    if layout == 'sequential_no_residual':
        return factors[index - 1] * outputs[index - 1]
    scaled, output, factor = factors[2 * index - 2] * z, outputs[index - 1], factors[2 * index - 1]
    return scaled + factor * output if isinstance(factor, Tensor) else scaled.add_(output, alpha=factor)


def aggregate(maps: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Spatially-varying aggregation of the convolutions' outputs (paper, section 3.2, "SA").

    Args:
        maps: (n, B, r, H, W), the n convolutions' outputs.
        weight: (n, r) of the linear map that scores each position, or None for the plain mean.
        bias: (n,) or None.

    Returns:
        Tensor: (B, r, H, W), a convex combination at each position.
    """
    if weight is None:
        return maps.mean(0)
    dtype = find_sum_dtype(maps.dtype)
    # In at least single precision, autocast or not: the scores of large features overflow half precision.
    with disable_autocast(maps.device.type):
        scores = F.conv2d(maps.sum(0, dtype=dtype), weight[:, :, None, None].to(dtype), bias.to(dtype))
        alpha = scores.softmax(1).to(maps.dtype)
    return (alpha.transpose(0, 1).unsqueeze(2) * maps).sum(0)
