"""Mona: a bottleneck with static multi-scale depthwise convolutions.

Paper: Yin et al., "5%>100%: Breaking Performance Shackles of Full Fine-Tuning on Visual Recognition Tasks", CVPR 2025,
section 3.3.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmparax.adapters.base import STREAM_SITES, BlockInfo, Method, check_dropout
from mmparax.errors import check_int
from mmparax.ops.token_maps import map_to_tokens, tokens_to_map
from mmparax.registry import MODELS

KERNEL_SIZES = (3, 5, 7)


class MonaAdapter(nn.Module):
    """Scaled norm, down, mean of three depthwise convolutions, 1x1 convolution, GELU, dropout, up, and the shortcut.

    Args:
        dim: C.
        hidden_dim: width r of the bottleneck.
        dropout: share dropped after the GELU while training.
    """

    def __init__(self, dim: int, hidden_dim: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.norm_scale = nn.Parameter(torch.empty(dim))
        self.input_scale = nn.Parameter(torch.empty(dim))
        self.down = nn.Linear(dim, hidden_dim)
        self.convs = nn.ModuleList(
            nn.Conv2d(hidden_dim, hidden_dim, size, padding=size // 2, groups=hidden_dim) for size in KERNEL_SIZES)
        self.projector = nn.Conv2d(hidden_dim, hidden_dim, 1)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(hidden_dim, dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for layer in (self.norm, self.down, *self.convs, self.projector, self.up):
            layer.reset_parameters()
        nn.init.constant_(self.norm_scale, 1e-6)
        nn.init.ones_(self.input_scale)

    def forward(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """Adapt tokens (B, H*W, C) of a map of size ``hw`` = (H, W); the shape stays."""
        z = tokens_to_map(self.down(self.norm_scale * self.norm(x) + self.input_scale * x), hw)
        z = z + sum(conv(z) for conv in self.convs) / len(self.convs)
        z = map_to_tokens(z + self.projector(z))
        return x + self.up(self.dropout(F.gelu(z)))


@MODELS.register_module()
class Mona(Method):
    """Mona, the multi-cognitive visual adapter (Yin et al., CVPR 2025).

    Args:
        hidden_dim: width of the bottleneck (the AdaRoute paper's Swin 90, ConvNeXt 144, ViT-B 92: Tables 1-4).
        dropout: after the GELU, while training.
        sites: where to adapt; by default after the token mixer and after the channel mixer (one-branch blocks: after
            the block).

    Raises:
        ParameterError: for a wrong argument.
    """
    not_mergeable = 'it follows a whole layer, with a norm and a GELU inside'
    possible_sites = tuple(site for site in STREAM_SITES if not site.endswith('parallel'))
    two_branch_sites = ('after_token_mixer', 'after_channel_mixer')
    one_branch_sites = ('after_block', )

    def __init__(self, hidden_dim: int = 64, dropout: float = 0.1, sites: Sequence[str] | None = None):
        super().__init__(sites)
        self.hidden_dim, self.dropout = check_int('hidden_dim', hidden_dim), check_dropout(dropout)

    def build(self, site: str, block: BlockInfo, center: nn.Module | None) -> nn.Module:
        return MonaAdapter(block.dim, self.hidden_dim, self.dropout)
