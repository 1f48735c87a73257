"""Dynamic depthwise convolutions and their weighted sum at each position, in one autograd function."""
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmparax.ops.autograd import make_backward, save_for_mixing_backward
from mmparax.ops.internals import softmax_backward
from mmparax.ops.reference.depthwise import differentiate_depthwise
from mmparax.ops.reference.mixing import find_source
from mmparax.ops.token_maps import HW, map_to_tokens, tokens_to_map


def _add_up(outputs: Sequence[Tensor]) -> Tensor:
    total = outputs[0] + outputs[1]
    for each in outputs[2:]:
        total += each
    return total


def _apply_per_sample(function: Any, *maps: Tensor) -> list[Tensor]:
    """Call ``function`` with one sample after the other and join what it returns.

    The samples' kernels differ, so each is a convolution of its own; a grouped one for all of them would need the
    samples side by side in the channels, which copies.
    """
    if maps[0].shape[0] == 1:
        return function(*maps)
    results = [function(*(each[i:i + 1] for each in maps)) for i in range(maps[0].shape[0])]
    return [None if parts[0] is None else torch.cat(parts) for parts in zip(*results)]


def _convolve(x: Tensor, kernel: Tensor) -> list[Tensor]:
    return [F.conv2d(x, kernel[0], padding=kernel.shape[-1] // 2, groups=kernel.shape[1])]


def _convolve_backward(grad: Tensor, x: Tensor, kernel: Tensor) -> list[Tensor]:
    size = kernel.shape[-1]
    # The gradient of a kernel is the convolution of the input with the output's gradient as its kernel. On CPU that is
    # two to three times as fast as the library's own, except for the smallest kernels.
    swap = size > 3 and x.device.type == 'cpu'
    dx, dkernel, _ = differentiate_depthwise(grad, x, kernel[0], (True, not swap, False))
    if swap:
        dkernel = F.conv2d(x, grad.transpose(0, 1), padding=size // 2, groups=x.shape[1]).transpose(0, 1)
    return [dx, dkernel[None]]


def mix_spatially(z: Tensor, hw: HW, kernels: Sequence[Tensor], stage_mix: Tensor | None, layout: str,
                  score_weight: Tensor | None, score_bias: Tensor | None) -> Tensor:
    """:func:`mmparax.ops.functional.mix_spatially`."""
    return MixSpatially.apply(z, hw, layout, stage_mix, score_weight, score_bias, *kernels)


class MixSpatially(torch.autograd.Function):
    """:func:`mix_spatially` on maps that lie channels-last; keeps z, the outputs and the weights of the sum."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, hw: HW, layout: str, stage_mix: Tensor | None, score_weight: Tensor | None,
                score_bias: Tensor | None, *kernels: Tensor) -> Tensor:
        ctx.hw, ctx.layout = hw, layout
        ctx.factors = None if stage_mix is None else stage_mix.tolist()
        source = tokens_to_map(z, hw)
        maps: list[Tensor] = []
        for i, kernel in enumerate(kernels):
            maps += _apply_per_sample(_convolve, find_source(source, maps, i, layout, ctx.factors), kernel)
        outputs = [map_to_tokens(each) for each in maps]
        alpha = None
        if len(outputs) == 1:
            mixed = outputs[0] + z
        elif score_weight is None:
            mixed = _add_up(outputs).div_(len(outputs)).add_(z)
        else:  # (B, n, N): the weights of one output side by side
            alpha = (score_weight @ _add_up(outputs).transpose(1, 2)).add_(score_bias[:, None]).softmax(1)
            mixed = (outputs[0] * alpha[:, 0, :, None]).add_(z)
            for i, each in enumerate(outputs[1:], 1):
                mixed.addcmul_(each, alpha[:, i, :, None])
        save_for_mixing_backward(ctx, layout, z, stage_mix, score_weight, alpha, kernels, outputs)
        return mixed

    @staticmethod
    @make_backward
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, stage_mix, score_weight, alpha, *rest = ctx.saved_tensors
        count = len(ctx.needs_input_grad) - 6
        kernels, outputs = rest[:count], rest[count:]
        if alpha is None:
            grads = [grad / count for _ in range(count)]
            dscore_weight = dscore_bias = None
        else:
            grads, dscore_weight, dscore_bias = MixSpatially._differentiate_sum(grad, outputs, alpha, score_weight)
        source, hw = tokens_to_map(z, ctx.hw), ctx.hw
        maps = [tokens_to_map(each, hw) for each in outputs]
        dz, dmix, dkernels = None, None if stage_mix is None else torch.empty_like(stage_mix), [None] * count

        def add_to_dz(part: Tensor, factor: float = 1.) -> Tensor:
            return torch.add(grad, part, alpha=factor) if dz is None else dz.add_(part, alpha=factor)

        for i in reversed(range(count)):
            inputs = find_source(source, maps, i, ctx.layout, ctx.factors)
            dinputs, dkernels[i] = _apply_per_sample(_convolve_backward, tokens_to_map(grads[i], hw), inputs, kernels[i])
            dinputs = map_to_tokens(dinputs)
            if i == 0 or ctx.layout == 'parallel':
                dz = add_to_dz(dinputs)
                continue
            b = i - 1
            if ctx.layout == 'sequential':
                a, b = 2 * i - 2, 2 * i - 1
                dmix[a] = torch.dot(dinputs.flatten(), z.flatten())
                dz = add_to_dz(dinputs, ctx.factors[a])
            dmix[b] = torch.dot(dinputs.flatten(), outputs[i - 1].flatten())
            grads[i - 1].add_(dinputs, alpha=ctx.factors[b])
        return dz, None, None, dmix, dscore_weight, dscore_bias, *dkernels

    @staticmethod
    def _differentiate_sum(grad: Tensor, outputs: Sequence[Tensor], alpha: Tensor,
                           score_weight: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Gradients of the outputs, of the scores' weight and of their bias."""
        dalpha = torch.stack([torch.linalg.vecdot(grad, each) for each in outputs], 1)
        dscores = softmax_backward(dalpha, alpha, 1)
        through_scores = dscores.transpose(1, 2) @ score_weight
        grads = [torch.addcmul(through_scores, grad, alpha[:, i, :, None]) for i in range(len(outputs))]
        return grads, (dscores @ _add_up(outputs)).sum(0), dscores.sum((0, 2))
