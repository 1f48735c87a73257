"""Swin's window attention as a frozen trunk allows it: one fused operation, and masks that are made once.

mmpretrain computes scores, position bias, shift mask, softmax and product one by one and keeps the scores for the
backward. ``scaled_dot_product_attention`` keeps queries, keys, values and the output alone; that it gives no gradient for
the bias on every device does not matter to a trunk whose bias is frozen.
"""
import functools
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from mmpretrain.models.utils.attention import ShiftWindowMSA, WindowMSA
from torch import Tensor, nn

from mmparax.backbones.sites import swap_class


def pays(x: Tensor) -> bool:
    """Whether fused attention is faster: for windows of 49 tokens it is a tenth slower on a CPU."""
    return x.is_cuda


@functools.lru_cache(maxsize=8)
def shift_mask(hw: Tuple[int, int], window_size: int, shift_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """mmpretrain's mask (windows, N, N) of a map of size ``hw``; the blocks of a stage and the next image share it.

    It is of PyTorch's default type, which ``dtype`` must be.
    """
    with torch.inference_mode(False):  # a mask made by an evaluation serves training, too
        return ShiftWindowMSA.get_attn_mask(hw, window_size, shift_size, device)


class CachedMaskMSA(ShiftWindowMSA):
    """mmpretrain's ShiftWindowMSA with :func:`shift_mask`."""

    @staticmethod
    def get_attn_mask(hw_shape: Tuple[int, int], window_size: int, shift_size: int,
                      device: Optional[torch.device] = None) -> Optional[Tensor]:
        if shift_size == 0 or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return ShiftWindowMSA.get_attn_mask(hw_shape, window_size, shift_size, device)
        return shift_mask(tuple(hw_shape), window_size, shift_size, device, torch.get_default_dtype())


class FusedWindowMSA(WindowMSA):
    """mmpretrain's WindowMSA by ``scaled_dot_product_attention``, as long as its bias is frozen and it pays."""

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """Attend within windows ``x`` (windows*B, N, C), ``mask`` (windows, N, N) or None; the shape stays."""
        if self.relative_position_bias_table.requires_grad or not pays(x):
            return super().forward(x, mask)
        windows, tokens, channels = x.shape
        q, k, v = self.qkv(x).view(windows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(tokens, tokens, -1).permute(2, 0, 1)[None]
        if mask is not None:
            bias, images = (bias + mask[:, None]).to(q.dtype), windows // mask.shape[0]
            bias = bias if images == 1 else bias.repeat(images, 1, 1, 1)
        x = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), self.attn_drop.p if self.training else 0.,
                                           scale=self.scale)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(windows, tokens, channels)))


def speed_up(block: nn.Module) -> None:
    """Swap the attention of one frozen Swin block; attention that a method changed already stays as it is."""
    if type(block.attn) is ShiftWindowMSA:
        swap_class(block.attn, [ShiftWindowMSA], CachedMaskMSA, ['query', 'hw_shape'])
    if type(block.attn.w_msa) is WindowMSA:
        swap_class(block.attn.w_msa, [WindowMSA], FusedWindowMSA, ['x', 'mask'])
