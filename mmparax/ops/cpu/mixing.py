"""Dynamic depthwise convolutions and their weighted sum at each position, in C."""
import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmparax.ops.autograd import make_backward, save_for_mixing_backward
from mmparax.ops.cpu.calling import call_on_tasks, check_tokens, count_groups, measure_maps
from mmparax.ops.token_maps import HW

MAX_KERNELS = 16


def mix_spatially(z: Tensor, hw: HW, kernels: Sequence[Tensor], stage_mix: Tensor | None, layout: str,
                  score_weight: Tensor | None, score_bias: Tensor | None) -> Tensor:
    """:func:`mmparax.ops.functional.mix_spatially`, with at most ``MAX_KERNELS`` kernels."""
    return MixSpatially.apply(z, hw, layout, stage_mix, score_weight, score_bias, *kernels)


class MixSpatially(torch.autograd.Function):
    """:func:`mix_spatially`; keeps z, the outputs and the weights of the sum."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, hw: HW, layout: str, stage_mix: Tensor | None, score_weight: Tensor | None,
                score_bias: Tensor | None, *kernels: Tensor) -> Tensor:
        z, count = check_tokens(z, hw), len(kernels)
        batch, tokens, channels = z.shape
        outs, mixed = [torch.empty_like(z) for _ in kernels], torch.empty_like(z)
        alpha = None if score_weight is None else z.new_empty(batch, count, tokens)
        scores = None if score_weight is None else z.new_empty(batch, count_groups(channels, z.dtype), count, tokens)
        ctx.hw, ctx.layout, ctx.sizes = hw, layout, (ctypes.c_int * count)(*(kernel.shape[-1] for kernel in kernels))
        ctx.mixes = (ctypes.c_double * (2 * count))(*_list_factors(layout, stage_mix, count))
        call_on_tasks('mixing_forward', z, measure_maps(z, hw, 4, max(ctx.sizes)), z=z, kernels=kernels, sizes=ctx.sizes,
                      convs=count, mixes=ctx.mixes, score_weight=score_weight, score_bias=score_bias, outs=outs, alpha=alpha,
                      scores=scores, mixed=mixed, batch=batch, height=hw[0], width=hw[1], channels=channels)
        save_for_mixing_backward(ctx, layout, z, stage_mix, score_weight, alpha, kernels, outs)
        return mixed

    @staticmethod
    @make_backward
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, stage_mix, score_weight, alpha, *rest = ctx.saved_tensors
        count = len(ctx.sizes)
        kernels, outs = rest[:count], rest[count:]
        batch, tokens, channels = z.shape
        dz, dkernels = torch.empty_like(z), [z.new_empty(kernel.shape) for kernel in kernels]
        dmixes = z.new_empty(batch * count_groups(channels, z.dtype), count, 2)
        dscore_weight, dscores = z.new_empty(batch, count, channels), z.new_empty(batch, count, tokens)
        call_on_tasks('mixing_backward', z, measure_maps(z, ctx.hw, 4 + 2 * count, max(ctx.sizes)), grad=grad, z=z,
                      kernels=kernels, sizes=ctx.sizes, convs=count, mixes=ctx.mixes, score_weight=score_weight, outs=outs
                      or None, alpha=alpha, dz=dz, dkernels=dkernels, dmixes=dmixes, dscore_weight=dscore_weight, dscores=dscores,
                      batch=batch, height=ctx.hw[0], width=ctx.hw[1], channels=channels)
        dmix = None
        if stage_mix is not None:
            dmix = dmixes.sum(0)[1:].flatten() if ctx.layout == 'sequential' else dmixes.sum(0)[1:, 1]
        scored = score_weight is not None
        return (dz, None, None, dmix, dscore_weight.sum(0) if scored else None, dscores.sum(
            (0, 2)) if scored else None, *dkernels)


def _list_factors(layout: str, stage_mix: Tensor | None, count: int) -> list[float]:
    """What each convolution reads: the factors of z and of the output before."""
    if layout == 'parallel' or count == 1:
        return [1., 0.] * count
    factors = stage_mix.tolist()
    return [1., 0., *(factors if layout == 'sequential' else [each for b in factors for each in (0., b)])]
