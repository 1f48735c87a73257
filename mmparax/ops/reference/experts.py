"""The synthesis of weights from experts (paper: AdaRoute, section 3.2, "Dynamic Parameter Routing")."""
from collections.abc import Sequence

import torch
from torch import Tensor

from mmparax.ops.precision import disable_autocast


def mix_experts(gates: Tensor, experts: Tensor, dtype: torch.dtype) -> Tensor:
    """Weighted sum of experts for each sample.

    In at least single precision, autocast or not: a sum of half-precision experts rounds once per expert.

    Args:
        gates: (B, M).
        experts: (M, ...).
        dtype: of the result.

    Returns:
        Tensor: (B, ...).
    """
    with disable_autocast(experts.device.type):
        mixed = gates @ experts.flatten(1).to(gates.dtype)
    return mixed.view(-1, *experts.shape[1:]).to(dtype)


def mix_expert_sets(gates: Sequence[Tensor], experts: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """:func:`mmparax.ops.functional.mix_expert_sets`, one set after the other."""
    return [mix_experts(gate, expert, dtype) for gate, expert in zip(gates, experts)]
