"""Linear maps of tokens whose matrix is another for each sample, as an autograd function."""
from typing import Any

import torch
from torch import Tensor

from mmparax.ops.autograd import make_backward


def sample_linear(x: Tensor, weight: Tensor) -> Tensor:
    """:func:`mmparax.ops.functional.sample_linear`."""
    return SampleLinear.apply(x, weight)


class SampleLinear(torch.autograd.Function):
    """:func:`sample_linear` whose gradient of the weight lies in memory as the weight does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.transpose(1, 2)

    @staticmethod
    @make_backward
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return (grad @ weight if ctx.needs_input_grad[0] else None, grad.transpose(1, 2) @ x if ctx.needs_input_grad[1] else None)
