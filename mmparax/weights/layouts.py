"""Turns the key layouts of published files into those of the toolboxes' backbones."""
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

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


# ---- layouts that are known, and not read ----


class Layout(NamedTuple):
    """A kind of file that is no base, or is not read: how it is called, and what to do."""
    name: str
    remedy: str


AUTHORS = "give the authors' or OpenMMLab's file of the same weights"
# (pattern of a key, what has such keys); the first that is found counts.
UNREAD: tuple[tuple[str, Layout], ...] = (
    (r'(^|\.)(adapters|expert_centers)\.',
     Layout('a checkpoint that mmparax trained', 'set load_from to it, and base_checkpoint to the base that it was trained on')),
    (r'^(rpn_head|roi_head|bbox_head|mask_head|panoptic_head|semantic_head|decode_head|auxiliary_head)\.',
     Layout('a trained detector or segmentor', "save the tensors below 'backbone.' to a file of their own and give that")),
    (r'(^|\.)(storage_tokens|rope_embed\.)|\.qkv\.bias_mask$|^norms\.\d|\.attention\.q_proj\.',
     Layout("DINOv3's layout", f'which is not read yet: {AUTHORS}, or those of DINOv2')),
    (r'(^|\.)embeddings\.|(^|\.)encoder\.(layers?|stages|block|patch_embeddings)\.\d',
     Layout("Hugging Face's layout", f'which is not read yet: {AUTHORS}')),
    (r'^reg_token$|^layers\.3\.downsample\.|^stages\.\d+\.blocks\.\d+\.conv_dw\.',
     Layout("timm's layout", f'which is not read yet: {AUTHORS}')),
)
# (pattern of keys that are over or missing, which of the two, the option of the backbone that is meant).
OPTIONS: tuple[tuple[str, str, str], ...] = (
    (r'\.(gamma[12]\.weight|ls[12]\.gamma)$', 'unexpected', 'these weights have layer scales: set layer_scale_init_value=1e-5'),
    (r'\.(gamma[12]\.weight)$', 'missing', 'these weights have no layer scales: leave layer_scale_init_value at 0'),
    (r'^ln1\.', 'missing', 'these weights have no final norm: set final_norm=False'),
    (r'^cls_token$', 'missing', 'these weights have no class token: set with_cls_token=False'),
)


def find_layout(names: Iterable[str]) -> Layout | None:
    """The layout of a file that is known and not read, by the names of its tensors; None for any other."""
    names = list(names)
    return next((layout for pattern, layout in UNREAD if any(re.search(pattern, name) for name in names)), None)


def find_option(missing: Collection[str], unexpected: Collection[str]) -> str | None:
    """The option of a backbone by which all that is missing and unexpected would fit, or None."""
    for pattern, side, remedy in OPTIONS:
        names, others = (missing, unexpected) if side == 'missing' else (unexpected, missing)
        if names and not others and all(re.search(pattern, name) for name in names):
            return remedy
    return None


def find_prefix(weights: Mapping[str, Tensor], convert: Callable[[dict[str, Tensor]], dict[str, Tensor]],
                expected: Collection[str]) -> str | None:
    """The prefix without which most tensors of a file would have names that a backbone knows.

    Args:
        weights: of the file.
        convert: into the layout of the backbone.
        expected: names of its parameters.
    """
    parts = [name.split('.') for name in weights]
    candidates = {'.'.join(names[:count]) + '.' for names in parts for count in (1, 2, 3) if len(names) > count}
    best, matches = None, len(expected) // 2
    for prefix in sorted(candidates):
        inside = {name[len(prefix):]: value for name, value in weights.items() if name.startswith(prefix)}
        if len(inside) <= matches:
            continue
        try:
            found = len(set(convert(inside)) & set(expected))
        except Exception:  # shapes of another family
            continue
        if found > matches:
            best, matches = prefix, found
    return best
