"""Gates and the synthesis of weights from experts (paper, section 3.2, "Dynamic Parameter Routing").

Both run in at least single precision, autocast or not: a softmax in half precision loses the small gates, and a sum of
half-precision experts rounds once per expert.
"""
from contextlib import nullcontext
from typing import ContextManager, List

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def safe_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type of products of ``x``: autocast's where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def no_autocast(device_type: str) -> ContextManager:
    """Switch autocast off; nothing where it is off: torch.export makes every switch a graph of its own, slowly."""
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()


def route(mean: Tensor, reduce: nn.Linear, gates: nn.Linear, num_experts: int, activation: str) -> List[Tensor]:
    """Gates of each sample from the mean of its tokens: Linear, GELU, Linear, softmax (or sigmoid) over each group of experts.

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
    with no_autocast(mean.device.type):
        hidden = F.gelu(F.linear(mean, reduce.weight.to(dtype), reduce.bias.to(dtype)))
        logits = F.linear(hidden, gates.weight.to(dtype), gates.bias.to(dtype)).unflatten(1, (-1, num_experts))
        values = logits.softmax(-1) if activation == 'softmax' else logits.sigmoid()
    return list(values.unbind(1))


def mix_experts(gates: Tensor, experts: Tensor, dtype: torch.dtype) -> Tensor:
    """Weighted sum of experts for each sample.

    Args:
        gates: (B, M).
        experts: (M, ...).
        dtype: of the result.

    Returns:
        Tensor: (B, ...).
    """
    with no_autocast(experts.device.type):
        mixed = gates @ experts.flatten(1).to(gates.dtype)
    return mixed.view(-1, *experts.shape[1:]).to(dtype)
