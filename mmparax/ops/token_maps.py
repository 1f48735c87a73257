"""Tokens (B, H*W, C) seen as maps (B, C, H, W), and back."""

from torch import Tensor

HW = tuple[int, int]


def tokens_to_map(x: Tensor, hw: HW) -> Tensor:
    """View tokens (B, H*W, C) as a map (B, C, H, W) in channels-last memory; no copy if they are contiguous."""
    batch, _, channels = x.shape
    return x.reshape(batch, hw[0], hw[1], channels).permute(0, 3, 1, 2)


def map_to_tokens(x: Tensor) -> Tensor:
    """Turn a map (B, C, H, W) into contiguous tokens (B, H*W, C); no copy if the map is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1])
