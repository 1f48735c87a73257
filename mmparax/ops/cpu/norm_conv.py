"""Scaled layer norm, residual, depthwise 3x3, residual, and the mean over tokens, in C."""
from typing import Any

import torch
from torch import Tensor

from mmparax.ops.autograd import make_backward
from mmparax.ops.cpu.calling import call, call_on_tasks, check_tokens, count_groups, measure_strips
from mmparax.ops.token_maps import HW


def scaled_norm_conv(x: Tensor, hw: HW, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
                     bias: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`mmparax.ops.functional.scaled_norm_conv`."""
    return ScaledNormConv.apply(x, hw, scale, norm_weight, norm_bias, eps, weight, bias)


class ScaledNormConv(torch.autograd.Function):
    """:func:`scaled_norm_conv`; keeps x and two numbers a token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hw: HW, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
                bias: Tensor) -> tuple[Tensor, Tensor]:
        x = check_tokens(x, hw)
        batch, tokens, channels = x.shape
        mean, rstd = x.new_empty(2, batch, tokens)
        out, out_mean = torch.empty_like(x), x.new_empty(batch, channels)
        call('token_statistics', x, x=x, mean=mean, rstd=rstd, tokens=batch * tokens, channels=channels, eps=eps,
             threads=torch.get_num_threads())
        call_on_tasks('norm_conv_forward', x, measure_strips(x, hw, 2), x=x, mean=mean, rstd=rstd,
                      norm_weight=scale * norm_weight, norm_bias=scale * norm_bias, kernels=weight, bias=bias, out=out,
                      out_mean=out_mean, batch=batch, height=hw[0], width=hw[1], channels=channels)
        ctx.save_for_backward(x, mean, rstd, scale, norm_weight, norm_bias, weight)
        ctx.hw = hw
        return out, out_mean

    @staticmethod
    @make_backward
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, scale, norm_weight, norm_bias, weight = ctx.saved_tensors
        batch, tokens, channels = x.shape
        dx, dweight = torch.empty_like(x), x.new_empty(batch, *weight.shape)
        dbias, dinner_weight, dinner_bias = sums = x.new_empty(3, batch, channels)
        call_on_tasks('norm_conv_backward', x, measure_strips(x, ctx.hw, 3), grad=grad, grad_mean=grad_mean, x=x, mean=mean,
                      rstd=rstd, norm_weight=scale * norm_weight, norm_bias=scale * norm_bias, kernels=weight, dx=dx,
                      dkernels=dweight, dbias=dbias, dnorm_weight=dinner_weight, dnorm_bias=dinner_bias,
                      sums=x.new_empty(2, batch, count_groups(channels, x.dtype),
                                       tokens), batch=batch, height=ctx.hw[0], width=ctx.hw[1], channels=channels)
        dbias, dinner_weight, dinner_bias = sums.sum(1)
        return (dx, None, dinner_weight * norm_weight + dinner_bias * norm_bias, dinner_weight * scale, dinner_bias * scale, None,
                dweight.sum(0), dbias)
