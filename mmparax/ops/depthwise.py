"""Depthwise convolutions on token maps, with weights shared by the batch or generated per sample.

Eager and differentiable; odd kernels, stride 1, same padding.
"""
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmparax.ops.routing import no_autocast, safe_dtype


def tokens_to_map(x: Tensor, hw: Tuple[int, int]) -> Tensor:
    """View tokens (B, H*W, C) as a map (B, C, H, W) in channels-last memory; no copy if they are contiguous."""
    batch, _, channels = x.shape
    return x.reshape(batch, hw[0], hw[1], channels).permute(0, 3, 1, 2)


def map_to_tokens(x: Tensor) -> Tensor:
    """Turn a map (B, C, H, W) into contiguous tokens (B, H*W, C); no copy if the map is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1])


def depthwise_conv2d(x: Tensor, hw: Tuple[int, int], weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """Depthwise convolution of tokens.

    Args:
        x: tokens (B, H*W, C).
        hw: (H, W).
        weight: (C, 1, k, k), k odd.
        bias: (C,) or None.

    Returns:
        Tensor: (B, H*W, C).
    """
    padding = weight.shape[-1] // 2
    return map_to_tokens(F.conv2d(tokens_to_map(x, hw), weight, bias, padding=padding, groups=weight.shape[0]))


def add_identity(weight: Tensor) -> Tensor:
    """The kernels (C, 1, k, k) of ``x + conv(x)``: the residual is a one more in the centre tap."""
    weight, centre = weight.clone(), weight.shape[-1] // 2
    weight[:, :, centre, centre] += 1
    return weight


def depthwise_backward(grad: Tensor, x: Tensor, weight: Tensor,
                       wanted: Tuple[bool, bool, bool]) -> Tuple[Optional[Tensor], ...]:
    """Gradients of a depthwise convolution of a map (B, C, H, W): those wanted of input, weight and bias, else None."""
    channels, padding = weight.shape[0], weight.shape[-1] // 2
    return torch.ops.aten.convolution_backward(grad, x, weight, [channels], [1, 1], [padding, padding], [1, 1], False,
                                               [0, 0], channels, wanted)


def dynamic_depthwise_conv2d(x: Tensor, kernels: Tensor) -> Tensor:
    """Depthwise convolution in which each sample has its own kernels.

    The batch goes into the channel axis and one grouped convolution serves all samples.

    Args:
        x: map (B, r, H, W).
        kernels: (B, r, 1, k, k), k odd.

    Returns:
        Tensor: (B, r, H, W).
    """
    batch, channels, height, width = x.shape
    size = kernels.shape[-1]
    out = F.conv2d(x.reshape(1, batch * channels, height, width), kernels.reshape(batch * channels, 1, size, size),
                   padding=size // 2, groups=batch * channels)
    return out.view(batch, channels, height, width)


def aggregate(maps: Tensor, weight: Optional[Tensor], bias: Optional[Tensor]) -> Tensor:
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
    dtype = safe_dtype(maps.dtype)
    # In at least single precision, autocast or not: the scores of large features overflow half precision.
    with no_autocast(maps.device.type):
        scores = F.conv2d(maps.sum(0, dtype=dtype), weight[:, :, None, None].to(dtype), bias.to(dtype))
        alpha = scores.softmax(1).to(maps.dtype)
    return (alpha.transpose(0, 1).unsqueeze(2) * maps).sum(0)
