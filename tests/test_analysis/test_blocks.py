"""Blocks: found in any backbone, and selected by label, name or pattern."""
import pytest
from mmpretrain.models import ConvNeXt, SwinTransformer
from mmseg.models import ResNet

from helpers.cases import build
from mmparax.analysis.blocks import find_blocks, select_blocks
from mmparax.errors import ParameterError


def test_blocks_of_the_toolboxes_are_found():
    swin = SwinTransformer(arch=dict(embed_dims=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 4, 8]))
    assert [(block.label, block.name) for block in find_blocks(swin)] == [('1.1', 'stages.0.blocks.0'),
                                                                          ('2.1', 'stages.1.blocks.0'),
                                                                          ('2.2', 'stages.1.blocks.1'),
                                                                          ('3.1', 'stages.2.blocks.0'),
                                                                          ('4.1', 'stages.3.blocks.0')]
    convnext = ConvNeXt(arch=dict(channels=[8, 16], depths=[1, 2]), out_indices=(1, ))
    assert [block.label for block in find_blocks(convnext)] == ['1.1', '2.1', '2.2']
    resnet = find_blocks(ResNet(depth=50, base_channels=8))
    assert [block.stage for block in resnet] == [1] * 3 + [2] * 4 + [3] * 6 + [4] * 3
    assert [block.name
            for block in find_blocks(build('mona', 'mit'))] == ['layers.0.1.0', 'layers.0.1.1', 'layers.1.1.0', 'layers.1.1.1']


def test_blocks_are_chosen_by_label_name_or_pattern():
    swin = build('frozen')

    def labels(*patterns):
        return [block.label for block in select_blocks(swin, patterns)]

    assert labels() == ['1.1', '1.2', '2.1', '2.2', '3.1', '3.2', '3.3', '3.4', '4.1', '4.2']
    assert labels('4.1', '1.*') == ['1.1', '1.2', '4.1'] and labels('stages.1.blocks.*') == ['2.1', '2.2']
    inner = select_blocks(swin, ['stages.3.blocks.*.attn', 'patch_embed'])
    assert [(block.label, block.stage) for block in inner] == [('patch_embed', 0), ('stages.3.blocks.0.attn', 4),
                                                               ('stages.3.blocks.1.attn', 4)]
    with pytest.raises(ParameterError, match='AdaptedSwin has the blocks 1.1 .stages.0.blocks.0., ') as error:
        labels('3.1', 'stages.2.block.1')
    found = error.value
    assert (found.parameter, found.value, found.remedy) == ('blocks', 'stages.2.block.1', 'Did you mean stages.2.blocks.1?')
