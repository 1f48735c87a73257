"""AdaptFormer: a bottleneck beside the feed-forward network.

Paper: Chen et al., "AdaptFormer: Adapting Vision Transformers for Scalable Visual Recognition", NeurIPS 2022, section 3.2.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmparax.adapters.base import BlockInfo, Method, check_dropout, init_linear
from mmparax.errors import check_int, check_number
from mmparax.registry import MODELS


class ParallelBottleneck(nn.Module):
    """``scale * up(dropout(relu(down(x))))``, without a norm of its own; zero at the start.

    Args:
        dim: C.
        hidden_dim: width r of the bottleneck.
        dropout: share dropped after the ReLU while training.
        scale: a constant.
    """
    per_token = True

    def __init__(self, dim: int, hidden_dim: int, dropout: float, scale: float):
        super().__init__()
        self.scale = scale
        self.down = nn.Linear(dim, hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(hidden_dim, dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        init_linear(self.down.weight)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """Return what is added to the residual sum for tokens (B, N, C), class token included; the shape stays."""
        return self.scale * self.up(self.dropout(F.relu(self.down(x))))


@MODELS.register_module()
class AdaptFormer(Method):
    """AdaptFormer (Chen et al., NeurIPS 2022). It starts equal to the frozen base, bit for bit.

    It reads the stream before the second norm. Its output is added to that of the feed-forward network and to the residual,
    without stochastic depth. On ConvNeXt it runs beside the whole block.

    Args:
        hidden_dim: width of the bottleneck (the AdaRoute paper's Swin 224, ConvNeXt 176, ViT-B 233: Tables 1-4).
        dropout: after the ReLU, while training.
        scale: factor of the bottleneck's output.
        sites: where to adapt; by default beside the channel mixer (one-branch blocks: beside the block).

    Raises:
        ParameterError: for a wrong argument.
    """
    not_mergeable = 'it is a branch of its own beside the channel mixer, with a ReLU inside'
    two_branch_sites = ('channel_mixer_parallel', )
    one_branch_sites = ('block_parallel', )
    possible_sites = two_branch_sites + one_branch_sites

    def __init__(self, hidden_dim: int = 64, dropout: float = 0.1, scale: float = 0.1, sites: Sequence[str] | None = None):
        super().__init__(sites)
        self.hidden_dim = check_int('hidden_dim', hidden_dim)
        self.dropout, self.scale = check_dropout(dropout), check_number('scale', scale)

    def build(self, site: str, block: BlockInfo, center: nn.Module | None) -> nn.Module:
        return ParallelBottleneck(block.dim, self.hidden_dim, self.dropout, self.scale)
