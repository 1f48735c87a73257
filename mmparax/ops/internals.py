"""Undocumented parts of PyTorch, each behind one accessor, which has a fallback where the part is gone."""

import torch
from torch import Tensor


def get_backward_id() -> int | None:
    """The number of the backward pass that runs now, -1 outside of any; None if this PyTorch does not tell."""
    ask = getattr(torch._C, '_current_graph_task_id', None)
    return None if ask is None else ask()


def softmax_backward(grad: Tensor, output: Tensor, dim: int) -> Tensor:
    """The gradient of a softmax's input, from those of its output; all of one shape and type."""
    function = getattr(torch, '_softmax_backward_data', None)
    if function is not None:
        return function(grad, output, dim, output.dtype)
    weighted = grad * output
    return weighted - output * weighted.sum(dim, keepdim=True)
