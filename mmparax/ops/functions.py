"""What the fused autograd functions share."""
from typing import Any, Callable

from torch import Tensor
from torch.autograd.function import once_differentiable

from mmparax.ops.routing import no_autocast


def plain_backward(function: Callable) -> Callable:
    """Make ``function(ctx, *grads)`` a backward that is differentiable once, and runs without autocast, as its forward did."""

    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        with no_autocast(grads[0].device.type):
            return function(ctx, *grads)

    return backward
