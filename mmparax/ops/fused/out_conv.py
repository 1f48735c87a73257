"""Depthwise 3x3 with residual, layer scale and the shortcut, in one autograd function."""
from typing import Any

import torch
from torch import Tensor

from mmparax.ops.autograd import make_backward
from mmparax.ops.reference.depthwise import add_identity, convolve_depthwise, differentiate_depthwise
from mmparax.ops.token_maps import HW, map_to_tokens, tokens_to_map


def conv_scale_shortcut(y: Tensor, hw: HW, weight: Tensor, bias: Tensor, layer_scale: Tensor, layer_bias: Tensor,
                        shortcut: Tensor, shortcut_scale: Tensor | None, shortcut_bias: Tensor | None) -> Tensor:
    """:func:`mmparax.ops.functional.conv_scale_shortcut`."""
    return ConvScaleShortcut.apply(y, hw, weight, bias, layer_scale, layer_bias, shortcut, shortcut_scale, shortcut_bias)


class ConvScaleShortcut(torch.autograd.Function):
    """:func:`conv_scale_shortcut` with scale, residual and biases folded into the convolution; keeps y and the shortcut."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, hw: HW, weight: Tensor, bias: Tensor, layer_scale: Tensor, layer_bias: Tensor,
                shortcut: Tensor, shortcut_scale: Tensor | None, shortcut_bias: Tensor | None) -> Tensor:
        all_bias = torch.addcmul(layer_bias, layer_scale, bias)
        if shortcut_bias is not None:
            all_bias += shortcut_bias
        out = convolve_depthwise(y, hw, layer_scale[:, None, None, None] * add_identity(weight), all_bias)
        out = out.add_(shortcut) if shortcut_scale is None else out.addcmul_(shortcut, shortcut_scale)
        ctx.save_for_backward(y, weight, bias, layer_scale, shortcut, shortcut_scale)
        ctx.hw = hw
        return out.detach()  # autograd forbids in-place changes of a view that a function made

    @staticmethod
    @make_backward
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, bias, layer_scale, shortcut, shortcut_scale = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grad = grad.contiguous()
        kernel, scale = add_identity(weight), layer_scale[:, None, None, None]
        weights_need = any(needs[i] for i in (2, 3, 4))
        dy, folded, total = differentiate_depthwise(tokens_to_map(grad, ctx.hw), tokens_to_map(y, ctx.hw), scale * kernel,
                                                    (needs[0], weights_need, any(needs[i] for i in (3, 4, 5, 8))))
        dshortcut = dscale = None
        if shortcut_scale is None:
            dshortcut = grad
        else:
            if needs[7]:
                dscale = (grad * shortcut).sum((0, 1))
            if needs[6]:
                dshortcut = grad * shortcut_scale
        return (None if dy is None else map_to_tokens(dy), None, folded * scale if needs[2] else None,
                total * layer_scale if needs[3] else None, (folded * kernel).sum((1, 2, 3)) + total * bias if needs[4] else None,
                total if needs[5] else None, dshortcut, dscale, total if needs[8] else None)
