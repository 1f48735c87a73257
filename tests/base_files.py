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
    converted.update({'norm.weight': torch.ones(64), 'norm.bias': torch.zeros(64), 'head.weight': torch.ones(2, 64),
                      'head.bias': torch.ones(2), 'layers.0.blocks.0.attn.relative_position_index': torch.zeros(49, 49),
                      'layers.1.blocks.1.attn_mask': torch.zeros(4, 49, 49)})
    return converted
