"""Writes base weights in the layouts of their publishers."""
import torch


def microsoft(weights):
    """The same weights in Microsoft's layout, made by the inverse of the rules in the method text."""
    renames = [('patch_embed.projection.', 'patch_embed.proj.'), ('stages.', 'layers.'), ('.attn.w_msa.', '.attn.'),
               ('.ffn.layers.0.0.', '.mlp.fc1.'), ('.ffn.layers.1.', '.mlp.fc2.')]
    converted = {}
    for name, value in weights.items():
        for own, theirs in renames:
            name = name.replace(own, theirs)
        if '.downsample.' in name:
            quarter = value.shape[-1] // 4
            # column c * 4 + 2 * row + col of the unfolded map is column (row + 2 * col) * quarter + c of the concatenation
            order = [c * 4 + 2 * row + col for col in (0, 1) for row in (0, 1) for c in range(quarter)]
            value = value[..., order]
        if not name.startswith('norm'):
            converted[name] = value
    converted.update({
        'norm.weight': torch.ones(64), 'norm.bias': torch.zeros(64), 'head.weight': torch.ones(2, 64), 'head.bias': torch.ones(2),
        'layers.0.blocks.0.attn.relative_position_index': torch.zeros(49,
                                                                      49), 'layers.1.blocks.1.attn_mask': torch.zeros(4, 49, 49)
    })
    return converted


def meta_convnext(weights):
    """The same ConvNeXt weights in Meta's layout."""
    converted = {
        'norm.weight': torch.ones(64), 'norm.bias': torch.zeros(64), 'head.weight': torch.ones(2, 64), 'head.bias': torch.ones(2)
    }
    for name, value in weights.items():
        if not name.startswith('norm'):
            own = name.replace('.depthwise_conv.', '.dwconv.').replace('.pointwise_conv', '.pwconv')
            converted[own] = value[None, None, None] if '.grn.' in name else value
    return converted


def vit(weights, layout):
    """The same ViT weights in the layout of 'mae', 'adaptformer' (q, k and v apart), or older 'openmmlab' files."""
    if layout == 'openmmlab':
        return {f'backbone.{name.replace(".ln", ".norm").replace("ln1.", "norm1.")}': value for name, value in weights.items()}
    converted = {
        'mask_token': torch.zeros(1, 1, 16), 'decoder_embed.weight': torch.zeros(8, 16), 'head.weight': torch.ones(2, 16)
    }
    prefix = '' if layout == 'adaptformer' else 'mlp.'
    for name, value in weights.items():
        for own, theirs in [('patch_embed.projection.', 'patch_embed.proj.'), ('.ln1.', '.norm1.'), ('.ln2.', '.norm2.'),
                            ('layers.', 'blocks.'), ('.ffn.blocks.0.0.', f'.{prefix}fc1.'), ('.ffn.blocks.1.', f'.{prefix}fc2.'),
                            ('ln1.', 'norm.'), ('.attn.gamma1.weight', '.ls1.gamma'), ('.ffn.gamma2.weight', '.ls2.gamma')]:
            name = name.replace(own, theirs)
        if layout == 'adaptformer' and '.qkv.' in name:
            converted.update({name.replace('qkv', f'{part}_proj'): third for part, third in zip('qkv', value.chunk(3))})
        else:
            converted[name] = value
    return converted


def nvidia_mit(weights):
    """The same MiT weights in NVIDIA's layout."""
    converted = {'head.weight': torch.ones(2, 64), 'head.bias': torch.ones(2)}
    for name, value in weights.items():
        _, stage, place, *rest = name.split('.')
        name = '.'.join([('patch_embed', 'block', 'norm')[int(place)] + str(int(stage) + 1), *rest])
        for own, theirs in [('.projection.', '.proj.'), ('.attn.attn.out_proj.', '.attn.proj.'), ('.ffn.layers.0.', '.mlp.fc1.'),
                            ('.ffn.layers.1.', '.mlp.dwconv.dwconv.'), ('.ffn.layers.4.', '.mlp.fc2.')]:
            name = name.replace(own, theirs)
        if '.attn.attn.in_proj_' in name:
            width = len(value) // 3
            converted[name.replace('.attn.attn.in_proj_', '.attn.q.')] = value[:width]
            converted[name.replace('.attn.attn.in_proj_', '.attn.kv.')] = value[width:]
        else:
            converted[name] = value.flatten(1) if '.fc' in name and value.ndim == 4 else value
    return converted
