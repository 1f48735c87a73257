"""A base in a layout that is not read is called by its name, and the remedy is that of its kind."""
import pytest
import torch

from helpers.cases import BACKBONES, build

FILES = {  # backbone, keys of the file (with {own} also those of the backbone) -> what it is called, what to do
    'hugging face swin': ('swin', ['swin.embeddings.norm.weight', 'swin.encoder.layers.0.blocks.0.attention.self.query.weight'],
                          "it is Hugging Face's layout, which is not read yet", "Give the authors' or OpenMMLab's file"),
    'hugging face convnext': ('convnext', ['convnext.encoder.stages.0.layers.0.dwconv.weight'], "Hugging Face's layout", 'Give'),
    'hugging face vit': ('vit', ['encoder.layer.0.attention.attention.query.weight', 'embeddings.cls_token'],
                         "Hugging Face's layout", 'Give'),
    'hugging face segformer':
    ('mit', ['segformer.encoder.block.0.0.attention.self.query.weight'], "Hugging Face's layout", 'Give'),
    'timm swin': ('swin', ['layers.3.downsample.norm.weight', 'layers.0.blocks.0.attn.relative_position_bias_table'],
                  "it is timm's layout, which is not read yet", 'Give'),
    'timm convnext': ('convnext', ['stem.0.weight', 'stages.0.blocks.0.conv_dw.weight'], "timm's layout", 'Give'),
    'timm vit': ('vit', ['pos_embed', 'cls_token', 'reg_token', 'blocks.0.attn.qkv.weight'], "timm's layout", 'Give'),
    'dinov3': ('vit', ['storage_tokens', 'rope_embed.periods', 'blocks.0.attn.qkv.bias_mask'], "it is DINOv3's layout", 'DINOv2'),
    'detector': ('swin', ['own', 'neck.lateral_convs.0.conv.weight', 'roi_head.bbox_head.fc_cls.weight'],
                 'it is a trained detector or segmentor', "Save the tensors below 'backbone.'"),
    'segmentor':
    ('convnext', ['own', 'decode_head.conv_seg.weight'], 'it is a trained detector or segmentor', 'Save the tensors'),
    'trained': ('swin', ['stages.0.blocks.0.adapters.after_token_mixer.down', 'expert_centers.0.0.down'],
                'it is a checkpoint that mmparax trained', 'Set load_from to it'),
    'prefix': ('swin', ['own below teacher.encoder.'], "it is a file whose names begin with 'teacher.encoder.'",
               "Save its tensors without 'teacher.encoder.'"),
}


def write(path, backbone, keys):
    own, weights = build('frozen', backbone).state_dict(), {}
    for key in keys:
        if key.startswith('own'):
            prefix = key.partition(' below ')[2] or 'backbone.'
            weights.update({f'{prefix}{name}': value for name, value in own.items()})
        else:
            weights[key] = torch.ones(3)
    torch.save({'state_dict': weights}, path)


@pytest.mark.parametrize('case', FILES)
def test_the_layout_comes_first(case, tmp_path):
    backbone, keys, name, remedy = FILES[case]
    write(tmp_path / 'base.pth', backbone, keys)
    with pytest.raises(ValueError, match=r"base_checkpoint='.*base.pth' does not fit Adapted\w+: it is ") as refused:
        build('frozen', backbone, base_checkpoint=str(tmp_path / 'base.pth'), allow_random_base=False)
    text = str(refused.value)
    assert name in text and remedy in text and text.endswith('nothing was loaded.')
    assert 'Give the file of this arch' not in text


OPTIONS = {
    'layer scales': (dict(layer_scale_init_value=1e-5), {}, 'Set layer_scale_init_value=1e-5'[4:]),
    'no final norm': (dict(final_norm=False), {}, 'set final_norm=False'),
    'no class token': (dict(with_cls_token=False, out_type='featmap'), dict(out_type='featmap'), 'set with_cls_token=False'),
}


@pytest.mark.parametrize('case', OPTIONS)
def test_an_option_that_would_make_it_fit_is_named(case, tmp_path):
    of_file, of_model, remedy = OPTIONS[case]
    torch.save(build('frozen', 'vit', **of_file).state_dict(), tmp_path / 'base.pth')
    with pytest.raises(ValueError, match=remedy):
        build('frozen', 'vit', base_checkpoint=str(tmp_path / 'base.pth'), allow_random_base=False, **of_model)


def test_several_sets_of_weights_are_listed(tmp_path):
    weights = build('frozen', 'vit').state_dict()
    torch.save({'student': weights, 'teacher': weights, 'epoch': 3}, tmp_path / 'base.pth')
    with pytest.raises(ValueError, match=r"holds 2 set\(s\) of weights, 'student', 'teacher', and none under"):
        build('frozen', 'vit', base_checkpoint=str(tmp_path / 'base.pth'), allow_random_base=False)


@pytest.mark.parametrize('backbone', BACKBONES)
def test_what_is_read_has_no_such_name(backbone):
    from mmparax.weights.layouts import find_layout
    assert find_layout(build('frozen', backbone).state_dict()) is None
