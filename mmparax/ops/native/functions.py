"""Autograd functions over the compiled operations; their arguments are those of the functions in ``mmparax.ops``."""
import ctypes
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mmparax.errors import bad_value
from mmparax.ops.depthwise import add_identity
from mmparax.ops.functions import plain_backward
from mmparax.ops.mixing import keep
from mmparax.ops.native.build import library

HW = Tuple[int, int]
LANE_BYTES = 64  # of the channels of one task
MAX_KERNELS = 16


def _run(name: str, like: Tensor, room: int, *arguments: Any) -> None:
    """Call an operation on contiguous tensors of one type, with ``room`` numbers of scratch memory for each thread.

    Tensors and lists of them become pointers; inputs are converted first, what is written must be as it is wanted.
    """
    kept = []

    def address(tensor: Tensor) -> ctypes.c_void_p:
        kept.append(tensor.to(like.dtype).contiguous())
        return ctypes.c_void_p(kept[-1].data_ptr())

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return (ctypes.c_void_p * len(value))(*map(address, value))
        return address(value) if isinstance(value, Tensor) else value

    threads = torch.get_num_threads()
    scratch = like.new_empty(threads * room)
    getattr(library(like.dtype), name)(*map(plain, (*arguments, scratch)), ctypes.c_longlong(room), threads)


def _strips(like: Tensor, hw: HW, maps: int) -> int:
    """Room for the strips of rows of some maps."""
    return library(like.dtype).strip_room(*hw, maps)


def _tasks(channels: int, dtype: torch.dtype) -> int:
    """Groups of channels in an image."""
    return -(-channels * dtype.itemsize // LANE_BYTES)


def _tokens(tokens: Tensor, hw: HW) -> Tensor:
    """Contiguous tokens, of whose number the operations rely on ``hw``."""
    if tokens.shape[1] != hw[0] * hw[1]:
        raise bad_value('hw', hw, f'these are {tokens.shape[1]} tokens, which are no map of that size')
    return tokens.contiguous()


class ScaledNormConv(torch.autograd.Function):
    """:func:`mmparax.ops.norm_conv.scaled_norm_conv`; keeps x and two numbers a token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hw: HW, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float,
                weight: Tensor, bias: Tensor) -> Tuple[Tensor, Tensor]:
        x = _tokens(x, hw)
        batch, tokens, channels = x.shape
        mean, rstd = x.new_empty(2, batch, tokens)
        out, out_mean = torch.empty_like(x), x.new_empty(batch, channels)
        library(x.dtype).token_statistics(*(ctypes.c_void_p(each.data_ptr()) for each in (x, mean, rstd)),
                                          ctypes.c_longlong(batch * tokens), channels, ctypes.c_double(eps))
        _run('norm_conv_forward', x, _strips(x, hw, 2), x, mean, rstd, scale * norm_weight, scale * norm_bias, weight, bias,
             out, out_mean, batch, *hw, channels)
        ctx.save_for_backward(x, mean, rstd, scale, norm_weight, norm_bias, weight)
        ctx.hw = hw
        return out, out_mean

    @staticmethod
    @plain_backward
    def backward(ctx: Any, grad: Tensor, grad_mean: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, mean, rstd, scale, norm_weight, norm_bias, weight = ctx.saved_tensors
        batch, tokens, channels = x.shape
        dx, dweight = torch.empty_like(x), x.new_empty(batch, *weight.shape)
        dbias, dinner_weight, dinner_bias = sums = x.new_empty(3, batch, channels)
        _run('norm_conv_backward', x, _strips(x, ctx.hw, 3), grad, grad_mean, x, mean, rstd, scale * norm_weight,
             scale * norm_bias, weight, dx, dweight, dbias, dinner_weight, dinner_bias,
             x.new_empty(2, batch, _tasks(channels, x.dtype), tokens), batch, *ctx.hw, channels)
        dbias, dinner_weight, dinner_bias = sums.sum(1)
        return (dx, None, dinner_weight * norm_weight + dinner_bias * norm_bias, dinner_weight * scale, dinner_bias * scale,
                None, dweight.sum(0), dbias)


class MixSpatially(torch.autograd.Function):
    """:func:`mmparax.ops.mixing.mix_spatially`; keeps z, the outputs and the weights of the sum."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, hw: HW, layout: str, stage_mix: Optional[Tensor], score_weight: Optional[Tensor],
                score_bias: Optional[Tensor], *kernels: Tensor) -> Tensor:
        z, count = _tokens(z, hw), len(kernels)
        batch, tokens, channels = z.shape
        outs, mixed = [torch.empty_like(z) for _ in kernels], torch.empty_like(z)
        alpha = None if score_weight is None else z.new_empty(batch, count, tokens)
        scores = None if score_weight is None else z.new_empty(batch, _tasks(channels, z.dtype), count, tokens)
        ctx.hw, ctx.layout, ctx.sizes = hw, layout, (ctypes.c_int * count)(*(kernel.shape[-1] for kernel in kernels))
        ctx.mixes = (ctypes.c_double * (2 * count))(*_mixes(layout, stage_mix, count))
        room = library(z.dtype).whole_room(*hw, 4, max(ctx.sizes))
        _run('mixing_forward', z, room, z, list(kernels), ctx.sizes, count, ctx.mixes, score_weight, score_bias, outs, alpha,
             scores, mixed, batch, *hw, channels)
        keep(ctx, layout, z, stage_mix, score_weight, alpha, kernels, outs)
        return mixed

    @staticmethod
    @plain_backward
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        z, stage_mix, score_weight, alpha, *rest = ctx.saved_tensors
        count = len(ctx.sizes)
        kernels, outs = rest[:count], rest[count:]
        batch, tokens, channels = z.shape
        dz, dkernels = torch.empty_like(z), [kernel.new_empty(kernel.shape) for kernel in kernels]
        dmixes = z.new_empty(batch * _tasks(channels, z.dtype), count, 2)
        dscore_weight, dscores = z.new_empty(batch, count, channels), z.new_empty(batch, count, tokens)
        room = library(z.dtype).whole_room(*ctx.hw, 4 + 2 * count, max(ctx.sizes))
        _run('mixing_backward', z, room, grad, z, kernels, ctx.sizes, count, ctx.mixes, score_weight, outs or None, alpha,
             dz, dkernels, dmixes, dscore_weight, dscores, batch, *ctx.hw, channels)
        dmix = None
        if stage_mix is not None:
            dmix = dmixes.sum(0)[1:].flatten() if ctx.layout == 'sequential' else dmixes.sum(0)[1:, 1]
        scored = score_weight is not None
        return (dz, None, None, dmix, dscore_weight.sum(0) if scored else None, dscores.sum((0, 2)) if scored else None,
                *dkernels)


def _mixes(layout: str, stage_mix: Optional[Tensor], count: int) -> Sequence[float]:
    """What each convolution reads: the factors of z and of the output before."""
    if layout == 'parallel' or count == 1:
        return [1., 0.] * count
    factors = stage_mix.tolist()
    return [1., 0., *(factors if layout == 'sequential' else [each for b in factors for each in (0., b)])]


class ConvScaleShortcut(torch.autograd.Function):
    """:func:`mmparax.ops.out_conv.conv_scale_shortcut`; keeps y and the shortcut."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, hw: HW, weight: Tensor, bias: Tensor, layer_scale: Tensor, layer_bias: Tensor,
                shortcut: Tensor, shortcut_scale: Optional[Tensor], shortcut_bias: Optional[Tensor]) -> Tensor:
        y, shortcut = _tokens(y, hw), _tokens(shortcut, hw)
        all_bias = torch.addcmul(layer_bias, layer_scale, bias)
        if shortcut_bias is not None:
            all_bias += shortcut_bias
        out = torch.empty_like(y)
        _run('out_conv_forward', y, _strips(y, hw, 2), y, weight, layer_scale, all_bias, shortcut, shortcut_scale, out,
             y.shape[0], *hw, y.shape[2])
        ctx.save_for_backward(y, weight, bias, layer_scale, shortcut, shortcut_scale)
        ctx.hw = hw
        return out

    @staticmethod
    @plain_backward
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        y, weight, bias, layer_scale, shortcut, shortcut_scale = ctx.saved_tensors
        batch, _, channels = y.shape
        dy, dshortcut, folded = torch.empty_like(y), torch.empty_like(y), y.new_empty(batch, *weight.shape)
        total, dscale = sums = y.new_empty(2, batch, channels)
        _run('out_conv_backward', y, _strips(y, ctx.hw, 3), grad, y, weight, layer_scale, shortcut, shortcut_scale, dy,
             dshortcut, folded, total, dscale, batch, *ctx.hw, channels)
        folded, (total, dscale) = folded.sum(0), sums.sum(1)
        dlayer_scale = (folded * add_identity(weight)).sum((1, 2, 3)) + total * bias
        return (dy, None, folded * layer_scale[:, None, None, None], total * layer_scale, dlayer_scale, total, dshortcut,
                None if shortcut_scale is None else dscale, None if shortcut_scale is None else total)
