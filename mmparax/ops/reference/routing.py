"""The gates (paper: AdaRoute, section 3.2, "Dynamic Parameter Routing"): few numbers, so there is one implementation."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmparax.ops.precision import disable_autocast


def route(mean: Tensor, reduce: nn.Linear, gates: nn.Linear, num_experts: int, activation: str) -> list[Tensor]:
    """Gates of each sample from the mean of its tokens: Linear, GELU, Linear, softmax (or sigmoid) over each group of experts.

    In at least single precision, autocast or not: a softmax in half precision loses the small gates.

    Args:
        mean: (B, C), float32 or float64.
        reduce: Linear(C, h).
        gates: Linear(h, G * M).
        num_experts: M.
        activation: ``'softmax'`` or ``'sigmoid'``.

    Returns:
        list[Tensor]: G gates of (B, M), of the mean's type.
    """
    dtype = mean.dtype
    with disable_autocast(mean.device.type):
        hidden = F.gelu(F.linear(mean, reduce.weight.to(dtype), reduce.bias.to(dtype)))
        logits = F.linear(hidden, gates.weight.to(dtype), gates.bias.to(dtype)).unflatten(1, (-1, num_experts))
        values = logits.softmax(-1) if activation == 'softmax' else logits.sigmoid()
    return list(values.unbind(1))
