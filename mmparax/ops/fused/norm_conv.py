"""Scaled layer norm, residual, depthwise 3x3, residual, and the mean over tokens, in one autograd function."""
from typing import Any

import torch
from torch import Tensor

from mmparax.ops.autograd import make_backward
from mmparax.ops.reference.depthwise import add_identity, convolve_depthwise, differentiate_depthwise
from mmparax.ops.token_maps import HW, map_to_tokens, tokens_to_map


def scaled_norm_conv(x: Tensor, hw: HW, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
                     bias: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`mmparax.ops.functional.scaled_norm_conv`."""
    return ScaledNormConv.apply(x, hw, scale, norm_weight, norm_bias, eps, weight, bias)


class ScaledNormConv(torch.autograd.Function):
    """:func:`scaled_norm_conv` that keeps x and two numbers per token for its backward.

    The scale is a part of the norm's affine map, and the second residual one of the convolution's centre tap.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, hw: HW, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
                bias: Tensor) -> tuple[Tensor, Tensor]:
        normed, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], scale * norm_weight, scale * norm_bias, eps)
        out = convolve_depthwise(normed.add_(x), hw, add_identity(weight), bias)
        ctx.save_for_backward(x, mean, rstd, scale, norm_weight, norm_bias, weight, bias)
        ctx.hw = hw
        return out.detach(), out.mean(1)  # autograd forbids in-place changes of a view that a function made

    @staticmethod
    @make_backward
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, scale, norm_weight, norm_bias, weight, bias = ctx.saved_tensors
        needs = ctx.needs_input_grad
        inner_weight, inner_bias = scale * norm_weight, scale * norm_bias
        u = torch.addcmul(inner_bias, (x - mean).mul_(rstd), inner_weight).add_(x)
        grad = tokens_to_map(grad + grad_mean[:, None] / x.shape[1], ctx.hw)
        norm_needs = any(needs[i] for i in (2, 3, 4))
        du, dweight, dbias = differentiate_depthwise(grad, tokens_to_map(u, ctx.hw), add_identity(weight),
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
