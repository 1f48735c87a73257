"""Turns the key layouts of published files into those of mmpretrain's backbones."""
import re
from typing import Dict

from torch import Tensor

SWIN_RENAMES = (
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^layers\.', 'stages.'),
    (r'\.attn\.(qkv|proj|relative_position_)', r'.attn.w_msa.\1'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
)


def swin_layout(weights: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Return Swin weights in mmpretrain's layout; OpenMMLab's files pass as they are, Microsoft's are converted.

    Microsoft concatenates the four neighbours of a patch merging as (0,0), (1,0), (0,1), (1,1), each with all its
    channels; mmpretrain unfolds channel by channel with the neighbours in row order. Without this reorder every key
    matches and the outputs are wrong.
    """
    if not any(name.startswith('layers.') for name in weights):
        return weights
    converted = {}
    for name, value in weights.items():
        for pattern, replacement in SWIN_RENAMES:
            name = re.sub(pattern, replacement, name)
        if '.downsample.reduction.' in name or '.downsample.norm.' in name:
            value = reorder_merging(value)
        converted[name] = value
    return converted


def reorder_merging(value: Tensor) -> Tensor:
    """Reorder the last axis (4 neighbours x C) of a patch merging to (C x 4 neighbours in row order)."""
    neighbours = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return neighbours.transpose(-1, -2).flatten(-2).contiguous()
