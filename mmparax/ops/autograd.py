"""What autograd functions share."""
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.function import once_differentiable

from mmparax.ops.precision import disable_autocast


def make_backward(function: Callable) -> Callable:
    """Make ``function(ctx, *grads)`` a backward that is differentiable once, and runs without autocast, as its forward did."""

    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        with disable_autocast(grads[0].device.type):
            return function(ctx, *grads)

    return backward


def save_for_mixing_backward(ctx: Any, layout: str, z: Tensor, stage_mix: Tensor | None, score_weight: Tensor | None,
                             alpha: Tensor | None, kernels: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Save what a backward reads: the outputs only where something beside the sum reads them."""
    read = outputs if alpha is not None or (layout != 'parallel' and len(outputs) > 1) else []
    ctx.save_for_backward(z, stage_mix, score_weight, alpha, *kernels, *read)
