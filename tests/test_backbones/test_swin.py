"""AdaptedSwin against upstream, and the counts of the paper."""
import pytest
import torch
from mmpretrain.models.backbones import SwinTransformer
from safetensors.torch import save_file

from helpers.cases import TINY_SWIN
from mmparax.backbones import AdaptedSwin, AdaRouteSwin
from mmparax.backbones.parameters import count_parameters
from mmparax.utils.meta_device import use_meta_device


@pytest.mark.parametrize('options', [{},
                                     dict(out_indices=(3, ), pad_small_map=False),
                                     dict(with_cp=True),
                                     dict(use_abs_pos_embed=True),
                                     dict(out_after_downsample=True, out_indices=(1, 2)),
                                     dict(drop_path_rate=0.5, drop_rate=0.1),
                                     dict(norm_cfg=None)], ids=str)
@pytest.mark.parametrize('adapter', [None, dict(type='mmparax.Frozen')], ids=['full', 'frozen'])
@pytest.mark.filterwarnings('ignore:torch.utils.checkpoint')
def test_bit_equal_to_upstream(options, adapter):
    options = {**TINY_SWIN, 'pad_small_map': True, **options}
    upstream = SwinTransformer(**options)
    adapted = AdaptedSwin(adapter=adapter, allow_random_base=True, efficient_attention=False, **options)
    missing, unexpected = adapted.load_state_dict(upstream.state_dict())
    assert not missing and not unexpected
    x = torch.randn(2, 3, 224, 256)
    upstream.train(), adapted.train()
    outs = []
    for model in (upstream, adapted):
        torch.manual_seed(1)
        outs.append(model(x))
    for expected, out in zip(*outs):
        assert torch.equal(expected, out)
    if adapter is None:
        for model_outs in outs:
            sum(out.square().mean() for out in model_outs).backward()
        expected = dict(upstream.named_parameters())
        for name, parameter in adapted.named_parameters():
            if expected[name].grad is None:  # behind the last output
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize('size', [(32, 32), (33, 65), (1, 1), (100, 41), (224, 224)], ids=str)
def test_any_input_size(size):
    model = AdaRouteSwin(hidden_dim=4, allow_random_base=True, **TINY_SWIN).eval()
    outs = model(torch.randn(1, 3, *size))
    expected = tuple(-(-side // 4) for side in size)
    for out in outs:
        assert out.shape[2:] == expected and out.isfinite().all()
        expected = tuple(-(-side // 2) for side in expected)


COUNTS = [
    ('base', {}, 5_242_992),
    ('large', {}, 7_302_384),
    ('large', dict(kernel_sizes=()), 6_994_368),
    ('base', dict(shortcut_scale=False, layer_scale_init=1e-5), 5_194_864),
    ('base', dict(layers_per_center=18), 5_242_992),
    ('base', dict(layers_per_center=9), 5_215_452),
    ('base', dict(layers_per_center=6), 5_206_272),
    ('base', dict(layers_per_center=3), 5_197_092),
]
ROUNDED_COUNTS = [  # in millions, to three decimals
    (dict(experts_per_layer=4, hidden_dim=40), 5.522),
    (dict(experts_per_layer=2, hidden_dim=72), 5.169),
    (dict(experts_per_layer=1, hidden_dim=128), 5.243),
    (dict(experts_per_layer=0.5, hidden_dim=192), 5.376),
    (dict(kernel_sizes=(3, 3, 3), spatial_aggregation=False), 5.052),
    (dict(kernel_sizes=(5, 5, 5), spatial_aggregation=False), 5.200),
    (dict(kernel_sizes=(7, 7, 7), spatial_aggregation=False), 5.421),
    (dict(kernel_sizes=(3, 5, 7), spatial_aggregation=False), 5.224),
    (dict(kernel_sizes=(5, 7, 9), spatial_aggregation=False), 5.446),
    (dict(kernel_sizes=(5, 7, 9)), 5.464),
]


def trained(arch, options):
    with use_meta_device():
        model = AdaRouteSwin(arch=arch, out_indices=(0, 1, 2, 3), allow_random_base=True, **options)
    return count_parameters(model).trainable_in_backbone


@pytest.mark.parametrize('arch, options, count', COUNTS, ids=str)
def test_parameter_counts(arch, options, count):
    assert trained(arch, options) == count


@pytest.mark.parametrize('options, millions', ROUNDED_COUNTS, ids=str)
def test_parameter_counts_of_the_ablations(options, millions):
    assert round(trained('base', options) / 1e6, 3) == millions


def test_full_fine_tuning_count():
    with use_meta_device():
        model = AdaptedSwin(arch='base', out_indices=(0, 1, 2, 3), allow_random_base=True)
    count = count_parameters(model)
    assert round(count.trainable_in_backbone / 1e6, 3) == 86.745 and count.backbone_frozen.parameters == 0


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large'])
def test_all_archs_have_two_adapters_a_block(arch):
    with use_meta_device():
        model = AdaRouteSwin(arch=arch, allow_random_base=True)
    for stage, depth in zip(model.stages, model.depths):
        assert len(stage.blocks) == depth
        for block in stage.blocks:
            assert list(block.adapters) == ['after_token_mixer', 'after_channel_mixer']


def test_groups_of_blocks_share_a_center():
    options = {**TINY_SWIN, 'arch': dict(embed_dims=8, depths=[1, 2, 6, 2], num_heads=[1, 2, 4, 8])}
    model = AdaRouteSwin(hidden_dim=4, layers_per_center=2, allow_random_base=True, **options)
    assert [len(stage) for stage in model.expert_centers] == [1, 1, 3, 1]
    for index, block in enumerate(model.stages[2].blocks):
        for adapter in block.adapters.values():
            assert adapter.center is model.expert_centers[2][index // 2]


def test_small_maps_are_padded_by_default_for_dense_tasks():

    def padding(**options):
        model = AdaptedSwin(allow_random_base=True, **{**TINY_SWIN, **options})
        return model.stages[0].blocks[0].attn.pad_small_map

    assert padding() is True
    assert padding(out_indices=(3, )) is False
    assert padding(pad_small_map=False) is False


def test_openmmlab_layout_and_safetensors_load(tmp_path):
    upstream = SwinTransformer(**TINY_SWIN)
    weights = {**{f'backbone.{key}': value for key, value in upstream.state_dict().items()}, 'head.fc.weight': torch.ones(1)}
    torch.save({'meta': {'epoch': 1}, 'state_dict': weights}, tmp_path / 'openmmlab.pth')
    save_file({f'module.{key}': value.contiguous() for key, value in upstream.state_dict().items()},
              str(tmp_path / 'own.safetensors'))
    for name in ('openmmlab.pth', 'own.safetensors'):
        model = AdaptedSwin(adapter=dict(type='mmparax.Frozen'), base_checkpoint=str(tmp_path / name), **TINY_SWIN)
        own = dict(model.named_parameters())
        for key, value in upstream.named_parameters():
            if key.startswith('norm'):  # output norms start fresh
                assert own[key].eq(1.).all() or own[key].eq(0.).all()
            else:
                assert torch.equal(own[key], value)
