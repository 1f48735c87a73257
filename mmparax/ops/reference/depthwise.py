"""Depthwise convolutions, with weights shared by the batch or generated per sample; odd kernels, stride 1, same padding."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmparax.ops.token_maps import HW, map_to_tokens, tokens_to_map


def convolve_depthwise(x: Tensor, hw: HW, weight: Tensor, bias: Tensor | None) -> Tensor:
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


def convolve_dynamically(x: Tensor, kernels: Tensor) -> Tensor:
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


def add_identity(weight: Tensor) -> Tensor:
    """The kernels (C, 1, k, k) of ``x + conv(x)``: the residual is a one more in the centre tap."""
    weight, centre = weight.clone(), weight.shape[-1] // 2
    weight[:, :, centre, centre] += 1
    return weight


def differentiate_depthwise(grad: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, bool,
                                                                                   bool]) -> tuple[Tensor | None, ...]:
    """Gradients of a depthwise convolution of a map (B, C, H, W): those needed of input, weight and bias, else None."""
    channels, padding = weight.shape[0], weight.shape[-1] // 2
    return torch.ops.aten.convolution_backward(grad, x, weight, [channels], [1, 1], [padding, padding], [1, 1], False, [0, 0],
                                               channels, needed)
