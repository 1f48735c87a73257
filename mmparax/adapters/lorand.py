"""LoRand: adapters whose two linear maps are sums of low-rank products that share their kernels.

Paper: Yin et al., "1% VS 100%: Parameter-Efficient Low Rank Adapter for Dense Predictions", CVPR 2023, section 3.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmparax.adapters.base import STREAM_SITES, BlockInfo, Method, init_linear
from mmparax.errors import check_int
from mmparax.registry import MODELS

RESIDUAL_SITES = tuple(site for site in STREAM_SITES if not site.endswith('parallel'))


class LoRandAdapter(nn.Module):
    """``x + U gelu(D x)`` with ``D = sum_i P_i K_i Q_i``, ``U = sum_i P'_i K_i Q'_i`` and biases.

    Args:
        dim: C.
        hidden_dim: n, width between the two maps.
        branches: alpha, number of products in a sum.
        rank: beta, side of the square kernels K_i, which both maps share.

    Parameters: ``kernels`` (alpha, beta, beta); ``down_out`` (alpha, n, beta) and ``down_in`` (alpha, beta, C) of D;
    ``up_out`` (alpha, C, beta) and ``up_in`` (alpha, beta, n) of U; ``down_bias`` (n,), ``up_bias`` (C,).
    """
    per_token = True

    def __init__(self, dim: int, hidden_dim: int, branches: int, rank: int):
        super().__init__()
        self.kernels = nn.Parameter(torch.empty(branches, rank, rank))
        self.down_out = nn.Parameter(torch.empty(branches, hidden_dim, rank))
        self.down_in = nn.Parameter(torch.empty(branches, rank, dim))
        self.up_out = nn.Parameter(torch.empty(branches, dim, rank))
        self.up_in = nn.Parameter(torch.empty(branches, rank, hidden_dim))
        self.down_bias = nn.Parameter(torch.empty(hidden_dim))
        self.up_bias = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for stack in (self.kernels, self.down_out, self.down_in, self.up_out, self.up_in):
            for matrix in stack:  # one at a time: the fan-in of the stack is not that of a matrix
                init_linear(matrix)
        for bias, fan_in in ((self.down_bias, len(self.up_bias)), (self.up_bias, len(self.down_bias))):
            nn.init.uniform_(bias, -fan_in**-0.5, fan_in**-0.5)

    def forward(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """Adapt tokens (B, N, C), class token included; the shape stays."""
        z = F.gelu(F.linear(x, self.multiply(self.down_out, self.down_in), self.down_bias))
        return x + F.linear(z, self.multiply(self.up_out, self.up_in), self.up_bias)

    def multiply(self, outer: Tensor, inner: Tensor) -> Tensor:
        """Return the matrix ``sum_i outer_i K_i inner_i`` (out, in), which costs far less than to apply each product."""
        return (outer @ self.kernels @ inner).sum(0)


@MODELS.register_module()
class LoRand(Method):
    """LoRand (Yin et al., CVPR 2023).

    In blocks with two branches one adapter stands on the attention branch before its residual sum and one after the
    feed-forward network; in one-branch blocks one stands after the block.

    Args:
        branches: alpha, products in a sum (the AdaRoute paper has 4 with rank 20, 2 with 37, ...: Tables 1-4).
        rank: beta, side of the kernels.
        hidden_dim: width between the two maps; None: half the channels of the block.
        sites: where to adapt.

    Raises:
        ParameterError: for a wrong argument.
    """
    not_mergeable = 'it follows a whole layer, with a GELU inside'
    possible_sites = RESIDUAL_SITES
    two_branch_sites = ('token_mixer_branch', 'after_channel_mixer')
    one_branch_sites = ('after_block', )

    def __init__(self, branches: int = 2, rank: int = 8, hidden_dim: int | None = None, sites: Sequence[str] | None = None):
        super().__init__(sites)
        self.branches, self.rank = check_int('branches', branches), check_int('rank', rank)
        self.hidden_dim = None if hidden_dim is None else check_int('hidden_dim', hidden_dim)

    def build(self, site: str, block: BlockInfo, center: nn.Module | None) -> nn.Module:
        return LoRandAdapter(block.dim, self.hidden_dim or block.dim // 2, self.branches, self.rank)
