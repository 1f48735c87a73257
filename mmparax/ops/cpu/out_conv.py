"""Depthwise 3x3 with residual, layer scale and the shortcut, in C."""
from typing import Any

import torch
from torch import Tensor

from mmparax.ops.autograd import make_backward
from mmparax.ops.cpu.calling import call_on_tasks, check_tokens, measure_strips
from mmparax.ops.reference.depthwise import add_identity
from mmparax.ops.token_maps import HW


def conv_scale_shortcut(y: Tensor, hw: HW, weight: Tensor, bias: Tensor, layer_scale: Tensor, layer_bias: Tensor,
                        shortcut: Tensor, shortcut_scale: Tensor | None, shortcut_bias: Tensor | None) -> Tensor:
    """:func:`mmparax.ops.functional.conv_scale_shortcut`."""
    return ConvScaleShortcut.apply(y, hw, weight, bias, layer_scale, layer_bias, shortcut, shortcut_scale, shortcut_bias)


class ConvScaleShortcut(torch.autograd.Function):
    """:func:`conv_scale_shortcut`; keeps y and the shortcut."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, hw: HW, weight: Tensor, bias: Tensor, layer_scale: Tensor, layer_bias: Tensor,
                shortcut: Tensor, shortcut_scale: Tensor | None, shortcut_bias: Tensor | None) -> Tensor:
        y, shortcut = check_tokens(y, hw), check_tokens(shortcut, hw)
        all_bias = torch.addcmul(layer_bias, layer_scale, bias)
        if shortcut_bias is not None:
            all_bias += shortcut_bias
        out = torch.empty_like(y)
        call_on_tasks('out_conv_forward', y, measure_strips(y, hw, 2), input=y, kernels=weight, scale=layer_scale, bias=all_bias,
                      shortcut=shortcut, shortcut_scale=shortcut_scale, out=out, batch=y.shape[0], height=hw[0], width=hw[1],
                      channels=y.shape[2])
        ctx.save_for_backward(y, weight, bias, layer_scale, shortcut, shortcut_scale)
        ctx.hw = hw
        return out

    @staticmethod
    @make_backward
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, bias, layer_scale, shortcut, shortcut_scale = ctx.saved_tensors
        batch, _, channels = y.shape
        dy, dshortcut, folded = torch.empty_like(y), torch.empty_like(y), y.new_empty(batch, *weight.shape)
        total, dscale = sums = y.new_empty(2, batch, channels)
        call_on_tasks('out_conv_backward', y, measure_strips(y, ctx.hw, 3), grad=grad, input=y, kernels=weight, scale=layer_scale,
                      shortcut=shortcut, shortcut_scale=shortcut_scale, dinput=dy, dshortcut=dshortcut, dtaps=folded, dbias=total,
                      dshortcut_scale=dscale, batch=batch, height=ctx.hw[0], width=ctx.hw[1], channels=channels)
        folded, (total, dscale) = folded.sum(0), sums.sum(1)
        dlayer_scale = (folded * add_identity(weight)).sum((1, 2, 3)) + total * bias
        return (dy, None, folded * layer_scale[:, None, None, None], total * layer_scale, dlayer_scale, total, dshortcut,
                None if shortcut_scale is None else dscale, None if shortcut_scale is None else total)
