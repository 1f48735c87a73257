"""AdaptedConvNeXt against upstream, its base checkpoints and the counts of the paper."""
import pytest
import torch
from mmpretrain.models.backbones import ConvNeXt

from helpers.base_files import meta_convnext
from helpers.cases import TINY_CONVNEXT
from mmparax.backbones import AdaptedConvNeXt, AdaRouteConvNeXt
from mmparax.backbones.parameters import count_parameters
from mmparax.utils.meta_device import use_meta_device

FROZEN = dict(type='mmparax.Frozen')
V2 = dict(use_grn=True, layer_scale_init_value=0.)


@pytest.mark.parametrize('options', [{}, V2,
                                     dict(linear_pw_conv=False),
                                     dict(linear_pw_conv=False, **V2),
                                     dict(out_indices=-1),
                                     dict(gap_before_final_norm=True),
                                     dict(with_cp=True),
                                     dict(drop_path_rate=0.5),
                                     dict(stem_patch_size=2)], ids=str)
@pytest.mark.parametrize('adapter', [None, FROZEN], ids=['full', 'frozen'])
@pytest.mark.filterwarnings('ignore:torch.utils.checkpoint')
def test_bit_equal_to_upstream(options, adapter):
    options = {**TINY_CONVNEXT, **options}
    options.setdefault('gap_before_final_norm', isinstance(options['out_indices'], int))
    upstream, adapted = ConvNeXt(**options), AdaptedConvNeXt(adapter=adapter, allow_random_base=True, **options)
    missing, unexpected = adapted.load_state_dict(upstream.state_dict())
    assert not missing and not unexpected
    x, outs = torch.randn(2, 3, 64, 96), []
    for model in (upstream, adapted):
        model.train()
        torch.manual_seed(1)
        outs.append(model(x))
    for expected, out in zip(*outs):
        assert torch.equal(expected, out)
    if adapter is None:
        for model_outs in outs:
            sum(out.square().mean() for out in model_outs).backward()
        expected = dict(upstream.named_parameters())
        for name, parameter in adapted.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-5, atol=1e-7, msg=name)


def test_maps_are_the_default_of_several_outputs_and_vectors_of_one():
    x = torch.randn(2, 3, 64, 64)
    several = AdaptedConvNeXt(allow_random_base=True, **TINY_CONVNEXT)
    assert [out.ndim for out in several(x)] == [4] * 4 and several.output_channels() == [8, 16, 32, 64]
    one = AdaptedConvNeXt(allow_random_base=True, **{**TINY_CONVNEXT, 'out_indices': -1})
    assert [out.shape for out in one(x)] == [(2, 64)] and one.output_channels() is None


@pytest.mark.parametrize('size', [(1, 1), (31, 64), (64, 31)], ids=str)
def test_too_small_an_image_is_named(size):
    model = AdaptedConvNeXt(adapter=FROZEN, allow_random_base=True, **TINY_CONVNEXT)
    with pytest.raises(ValueError, match=r'image size=\(\d+, \d+\) is not allowed: this ConvNeXt needs at least 32x32 pixels'):
        model(torch.randn(1, 3, *size))


@pytest.mark.parametrize('size', [(32, 32), (33, 65), (100, 41)], ids=str)
def test_any_larger_size(size):
    model = AdaRouteConvNeXt(hidden_dim=4, allow_random_base=True, **TINY_CONVNEXT).eval()
    for i, out in enumerate(model(torch.randn(1, 3, *size))):
        assert out.shape[2:] == tuple(side // 2**(i + 2) for side in size) and out.isfinite().all()


@pytest.mark.parametrize('arch, options, count', [('base', {}, 6_456_000), ('large', {}, 9_156_096),
                                                  ('base', dict(router_dim=24), 6_630_912),
                                                  ('large', dict(router_dim=24), 9_403_200)], ids=str)
def test_parameter_counts(arch, options, count):
    with use_meta_device():
        model = AdaRouteConvNeXt(arch=arch, out_indices=(0, 1, 2, 3), allow_random_base=True, **options)
    assert count_parameters(model).trainable_in_backbone == count


@pytest.mark.parametrize('arch', AdaptedConvNeXt.upstream.arch_settings)
def test_all_archs_have_one_adapter_a_block(arch):
    with use_meta_device():
        model = AdaRouteConvNeXt(arch=arch, out_indices=(0, 1, 2, 3), allow_random_base=True)
    for stage, depth in zip(model.stages, model.depths):
        assert [list(block.adapters) for block in stage] == [['after_block']] * depth


def test_linear_and_conv_layers_of_its_adapters_start_as_its_own():
    model = AdaRouteConvNeXt(arch='atto', allow_random_base=True)
    for layer in model.stages[3][0].adapters['after_block'].modules():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)) and layer.weight.numel() > 2000:
            assert abs(layer.weight.std().item() - 0.02) < 0.002


def test_a_method_for_linear_layers_needs_linear_layers():
    method = dict(type='mmparax.AdaRoute', sites='after_token_mixer')
    with pytest.raises(ValueError, match="cannot adapt ConvNeXt: the site 'after_token_mixer' does not exist.*block_parallel"):
        AdaptedConvNeXt(adapter=method, allow_random_base=True, **TINY_CONVNEXT)
    model = AdaptedConvNeXt(adapter=FROZEN, allow_random_base=True, linear_pw_conv=False, **TINY_CONVNEXT)
    assert model.stages[0][0].list_sites() == ('block_parallel', 'after_block')


@pytest.mark.parametrize('version', [{}, V2], ids=['v1', 'v2'])
@pytest.mark.parametrize('layout', ['meta', 'openmmlab'])
def test_base_files_of_both_publishers(layout, version, tmp_path):
    options = {**TINY_CONVNEXT, **version}
    upstream = ConvNeXt(**options)
    for parameter in upstream.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    weights = upstream.state_dict()
    content = {'model': meta_convnext(weights)} if layout == 'meta' else {
        'state_dict': {f'backbone.{name}': value for name, value in weights.items()} | {'head.fc.weight': torch.ones(1)}
    }
    torch.save(content, tmp_path / 'base.pth')
    for linear in (True, False):
        model = AdaptedConvNeXt(adapter=FROZEN, base_checkpoint=str(tmp_path / 'base.pth'), linear_pw_conv=linear, **options)
        for name, parameter in model.named_parameters():
            if name.startswith('norm'):  # output norms start fresh
                assert parameter.eq(1.).all() or parameter.eq(0.).all()
            else:
                assert torch.equal(parameter, weights[name].reshape(parameter.shape))
