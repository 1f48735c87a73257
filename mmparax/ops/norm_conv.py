"""The start of an adapter: scaled layer norm, residual, 3x3 depthwise convolution, residual, and the mean for the router.

Paper: AdaRoute, figure 3, and section 3.2, "Dynamic Parameter Routing".
"""
from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmparax.ops.depthwise import (add_identity, depthwise_backward, depthwise_conv2d, map_to_tokens, tokens_to_map)
from mmparax.ops.functions import plain_backward
from mmparax.ops.paths import native_ops, path_for, triton_ops
from mmparax.ops.routing import compute_dtype, safe_dtype

HW = Tuple[int, int]


def scaled_norm_conv(x: Tensor, hw: HW, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float,
                     weight: Tensor, bias: Tensor) -> Tuple[Tensor, Tensor]:
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
    arguments = (x, hw, scale, norm_weight, norm_bias, eps, weight, bias)
    path = path_for(x)
    if path == 'eager':
        return eager(*arguments)
    if path == 'triton':
        return triton_ops().scaled_norm_conv(*arguments, out_dtype=compute_dtype(x))
    return (native_ops().ScaledNormConv if path == 'native' else ScaledNormConv).apply(*arguments)


def eager(x: Tensor, hw: HW, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
          bias: Tensor) -> Tuple[Tensor, Tensor]:
    """:func:`scaled_norm_conv`, step by step."""
    x = x + scale * F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    x = x + depthwise_conv2d(x, hw, weight, bias)
    return x, x.mean(1, dtype=safe_dtype(x.dtype))


class ScaledNormConv(torch.autograd.Function):
    """:func:`scaled_norm_conv` that keeps x and two numbers per token for its backward.

    The scale is a part of the norm's affine map, and the second residual one of the convolution's centre tap.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, hw: HW, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float,
                weight: Tensor, bias: Tensor) -> Tuple[Tensor, Tensor]:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], scale * norm_weight, scale * norm_bias, eps)
        out = depthwise_conv2d(normed.add_(x), hw, add_identity(weight), bias)
        ctx.save_for_backward(x, mean, rstd, scale, norm_weight, norm_bias, weight, bias)
        ctx.hw = hw
        return out.detach(), out.mean(1)  # autograd forbids in-place changes of a view that a function made

    @staticmethod
    @plain_backward
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, mean, rstd, scale, norm_weight, norm_bias, weight, bias = ctx.saved_tensors
        needs = ctx.needs_input_grad
        inner_weight, inner_bias = scale * norm_weight, scale * norm_bias
        u = torch.addcmul(inner_bias, (x - mean).mul_(rstd), inner_weight).add_(x)
        grad = tokens_to_map(grad + grad_mean[:, None] / x.shape[1], ctx.hw)
        norm_needs = any(needs[i] for i in (2, 3, 4))
        du, dweight, dbias = depthwise_backward(grad, tokens_to_map(u, ctx.hw), add_identity(weight),
                                                (needs[0] or norm_needs, needs[6], needs[7]))
        dx = dscale = dnorm_weight = dnorm_bias = None
        if du is not None:
            du = map_to_tokens(du)
            dx, dw, db = torch.ops.aten.native_layer_norm_backward(du, x, x.shape[-1:], mean, rstd, inner_weight, inner_bias,
                                                                   [needs[0], norm_needs, norm_needs])
            dx = None if dx is None else dx.add_(du)
            if norm_needs:
                dscale, dnorm_weight, dnorm_bias = dw * norm_weight + db * norm_bias, dw * scale, db * scale
        return dx, None, dscale, dnorm_weight, dnorm_bias, None, dweight, dbias
