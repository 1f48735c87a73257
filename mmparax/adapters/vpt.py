"""VPT-deep: learned tokens in every block's attention.

Paper: Jia et al., "Visual Prompt Tuning", ECCV 2022, section 3.2; for Swin its appendix.
"""
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmparax.adapters.base import PROMPT_SITE, BlockInfo, Method
from mmparax.errors import check_int
from mmparax.registry import MODELS


class Prompts(nn.Module):
    """Extra tokens (count, C) for one block.

    Args:
        count: how many.
        dim: C.
        bound: they start uniform within ±bound.
    """

    def __init__(self, count: int, dim: int, bound: float):
        super().__init__()
        self.bound = bound
        self.tokens = nn.Parameter(torch.empty(count, dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        nn.init.uniform_(self.tokens, -self.bound, self.bound)

    def forward(self) -> Tensor:
        return self.tokens


@MODELS.register_module()
class VPT(Method):
    """VPT-deep (Jia et al., ECCV 2022): each block has its own prompts, which its attention sees and then drops.

    Args:
        num_prompts: prompts of each block (the AdaRoute paper's: 10, Tables 1-4). With 0 nothing is added.
        sites: only ``prompts``.

    Raises:
        ParameterError: for a wrong argument.
        InputError: when a backbone without attention is built with it.
    """
    not_mergeable = 'it gives the attention more tokens, not other weights'
    possible_sites = (PROMPT_SITE, )
    two_branch_sites = (PROMPT_SITE, )
    one_branch_sites = (PROMPT_SITE, )

    def __init__(self, num_prompts: int = 10, sites: Sequence[str] | None = None):
        super().__init__(sites)
        self.num_prompts = check_int('num_prompts', num_prompts, minimum=0)

    def select_sites(self, offered: Sequence[str], branches: int, family: str) -> tuple[str, ...]:
        sites = super().select_sites(offered, branches, family)
        return sites if self.num_prompts else ()  # an empty parameter would get no gradient

    def build(self, site: str, block: BlockInfo, center: nn.Module | None) -> nn.Module:
        return Prompts(self.num_prompts, block.dim, math.sqrt(6 / (3 * block.patch_size**2 + block.embed_dim)))
