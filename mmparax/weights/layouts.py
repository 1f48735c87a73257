"""Turns the key layouts of published files into those of the toolboxes' backbones."""
import re
from collections.abc import Sequence

import torch
from torch import Tensor

SWIN_RENAMES = (
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^layers\.', 'stages.'),
    (r'\.attn\.(qkv|proj|relative_position_)', r'.attn.w_msa.\1'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
)
CONVNEXT_RENAMES = (
    (r'\.dwconv\.', '.depthwise_conv.'),
    (r'\.pwconv(\d)\.', r'.pointwise_conv\1.'),
)
# Names of MAE, timm and DINOv2, of AdaptFormer's repackaging, and of older OpenMMLab files.
VIT_RENAMES = (
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^blocks\.', 'layers.'),
    (r'^(layers\.\d+)\.norm(\d)\.', r'\1.ln\2.'),
    (r'^norm1?\.', 'ln1.'),
    (r'^(layers\.\d+)\.(?:mlp\.)?fc1\.', r'\1.ffn.layers.0.0.'),
    (r'^(layers\.\d+)\.(?:mlp\.)?fc2\.', r'\1.ffn.layers.1.'),
    (r'^(layers\.\d+)\.mlp\.(w12|w3)\.', r'\1.ffn.\2.'),
    (r'^(layers\.\d+)\.ls1\.gamma$', r'\1.attn.gamma1.weight'),
    (r'^(layers\.\d+)\.ls2\.gamma$', r'\1.ffn.gamma2.weight'),
)
# NVIDIA's name of a part of a stage -> its place in mmsegmentation's stage.
MIT_PLACES = {'patch_embed': 0, 'block': 1, 'norm': 2}
MIT_RENAMES = (
    (r'^(layers\.\d+\.0)\.proj\.', r'\1.projection.'),
    (r'\.attn\.q\.', '.attn.attn.in_proj_'),
    (r'\.attn\.proj\.', '.attn.attn.out_proj.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.'),
    (r'\.mlp\.dwconv\.dwconv\.', '.ffn.layers.1.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.4.'),
)


def rename_key(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """Apply (pattern, replacement) rules to a key, one after the other."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def convert_swin(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return Swin weights in mmpretrain's layout; OpenMMLab's files pass as they are, Microsoft's are converted.

    Microsoft concatenates the four neighbours of a patch merging as (0,0), (1,0), (0,1), (1,1), each with all its
    channels. mmpretrain unfolds channel by channel with the neighbours in row order. Without the reorder every key
    would match and the outputs would be wrong.
    """
    if not any(name.startswith('layers.') for name in weights):
        return weights
    converted = {}
    for name, value in weights.items():
        name = rename_key(name, SWIN_RENAMES)
        if '.downsample.reduction.' in name or '.downsample.norm.' in name:
            value = reorder_merging(value)
        converted[name] = value
    return converted


def reorder_merging(value: Tensor) -> Tensor:
    """Reorder the last axis (4 neighbours x C) of a patch merging to (C x 4 neighbours in row order)."""
    neighbours = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return neighbours.transpose(-1, -2).flatten(-2).contiguous()


def convert_convnext(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ConvNeXt weights (V2 too) in mmpretrain's layout; OpenMMLab's files pass as they are, Meta's are converted."""
    converted = {}
    for name, value in weights.items():
        # Meta keeps the vectors of global response normalization as (1, 1, 1, C).
        converted[rename_key(name, CONVNEXT_RENAMES)] = value.flatten() if '.grn.' in name else value
    return converted


def convert_vit(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return ViT weights in mmpretrain's layout, for the files of MAE, timm, DINOv2, AdaptFormer and OpenMMLab.

    AdaptFormer's files hold q, k and v as three linear maps, which become one.
    """
    converted = {}
    for name, value in weights.items():
        split = re.match(r'^blocks\.(\d+)\.attn\.([qkv])_proj\.(weight|bias)$', name)
        parts = [f'blocks.{split[1]}.attn.{part}_proj.{split[3]}' for part in 'qkv'] if split else []
        if split and all(part in weights for part in parts):
            if split[2] == 'q':
                converted[f'layers.{split[1]}.attn.qkv.{split[3]}'] = torch.cat([weights[part] for part in parts])
            continue
        converted[rename_key(name, VIT_RENAMES)] = value
    return converted


def convert_mit(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return MiT weights in mmsegmentation's layout; OpenMMLab's files pass as they are, NVIDIA's are converted.

    NVIDIA counts the stages from 1, keeps the query apart from key and value, and has linear maps where OpenMMLab has
    convolutions of one pixel.
    """
    converted = {}
    for name, value in weights.items():
        query, pair = name.replace('.attn.kv.', '.attn.q.'), name.replace('.attn.q.', '.attn.kv.')
        if query != name and query in weights:
            continue
        if pair != name and pair in weights:
            value = torch.cat([value, weights[pair]])
        if re.search(r'\.mlp\.fc\d\.weight$', name):
            value = value[:, :, None, None]
        part = re.match(r'(patch_embed|block|norm)(\d+)\.(.+)', name)
        if part:
            name = f'layers.{int(part[2]) - 1}.{MIT_PLACES[part[1]]}.{part[3]}'
        converted[rename_key(name, MIT_RENAMES)] = value
    return converted
