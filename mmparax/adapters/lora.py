"""LoRA: low-rank updates of frozen linear maps.

Paper: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1. Here on the query and value
parts of every attention, as the AdaRoute paper compares with it (Tables 1-4).
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmparax.adapters.base import LINEAR_SITES, BlockInfo, Method, check_dropout, init_linear
from mmparax.errors import ParameterError, check_int, check_number
from mmparax.registry import MODELS


class LoRAUpdate(nn.Module):
    """Adds ``alpha / rank * B A x`` to a frozen linear map of x.

    Args:
        features: (input, output) features of the map.
        rank: rows of A and columns of B.
        alpha: the update is scaled by alpha / rank.
        dropout: share of the input that is dropped on the way to A while training.

    Parameters: ``lora_a`` (rank, input), ``lora_b`` (output, rank), which starts at zero.
    """

    def __init__(self, features: tuple[int, int], rank: int, alpha: float, dropout: float):
        super().__init__()
        self.scale = alpha / rank
        self.dropout = nn.Dropout(dropout)
        self.lora_a = nn.Parameter(torch.empty(rank, features[0]))
        self.lora_b = nn.Parameter(torch.empty(features[1], rank))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init_linear(self.lora_a)
        nn.init.zeros_(self.lora_b)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``y`` (..., output), the frozen map of ``x`` (..., input), with the update."""
        return y + self.scale * F.linear(F.linear(self.dropout(x), self.lora_a), self.lora_b)

    def weight_update(self) -> Tensor:
        """Return the update as a matrix (output, input) that may be added to the frozen weight."""
        return self.scale * self.lora_b @ self.lora_a


@MODELS.register_module()
class LoRA(Method):
    """LoRA (Hu et al., ICLR 2022). It starts equal to the frozen base, bit for bit.

    Args:
        rank: rank of every update. The paper's Swin has 112, its ViT-B 106 (Tables 1-4).
        alpha: scale of the update times the rank; None: the rank, so that the scale is 1.
        dropout: on the input of the update, while training.
        sites: which linear maps: any of ``linear:q``, ``k``, ``v``, ``proj``, ``fc1``, ``fc2``; by default q and v.
            ConvNeXt has no attention: there it takes ``('linear:fc1', 'linear:fc2')``.

    Raises:
        ParameterError: for a wrong argument.
        InputError: when a backbone without such maps is built with it.
    """
    possible_sites = LINEAR_SITES
    two_branch_sites = ('linear:q', 'linear:v')
    one_branch_sites = ('linear:q', 'linear:v')

    def __init__(self, rank: int = 16, alpha: float | None = None, dropout: float = 0., sites: Sequence[str] | None = None):
        super().__init__(sites)
        self.rank = check_int('rank', rank)
        self.alpha = float(self.rank) if alpha is None else check_number('alpha', alpha)
        if self.alpha <= 0:
            raise ParameterError('alpha', alpha, 'it must be above 0, or None for the rank')
        self.dropout = check_dropout(dropout)

    def build(self, site: str, block: BlockInfo, center: nn.Module | None) -> nn.Module:
        return LoRAUpdate(block.features(site), self.rank, self.alpha, self.dropout)
