"""AdaptedMiT against upstream, its sites, base checkpoints and what it refuses; and the guide that was written with it."""
import re
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.registry import Registry
from mmseg.models.backbones import MixVisionTransformer

import mmparax.backbones.mit
from helpers.base_files import nvidia_mit
from helpers.cases import TINY_SWIN, Toy, ToyStream, toy
from mmparax.adapters.base import LINEAR_SITES
from mmparax.backbones import AdaptedMiT, AdaptedSwin, AdaRouteMiT
from mmparax.backbones.base_weights import BaseSource
from mmparax.backbones.roles import Role
from mmparax.utils.meta_device import use_meta_device

FROZEN = dict(type='mmparax.Frozen')
ROOT = Path(__file__).parents[2]
SMALL = dict(embed_dims=8, num_layers=[2, 2, 2, 2], num_heads=[1, 2, 4, 8])
THREE_STAGES = dict(num_stages=3, num_layers=[1, 2, 1], num_heads=[1, 2, 4], patch_sizes=[7, 3, 3], strides=[4, 2, 2],
                    sr_ratios=[4, 2, 1], out_indices=(0, 2))


@pytest.mark.parametrize('options', [
    {},
    dict(out_indices=(1, 3)),
    THREE_STAGES,
    dict(qkv_bias=False, mlp_ratio=2),
    dict(patch_sizes=[4, 2, 2, 2]),
    dict(drop_path_rate=0.5, drop_rate=0.1, attn_drop_rate=0.1),
], ids=str)
@pytest.mark.parametrize('adapter', [None, FROZEN, toy('token_mixer_branch', 'channel_mixer_branch')],
                         ids=['full', 'frozen', 'branch'])
@pytest.mark.parametrize('with_cp', [False, True], ids=['plain', 'cp'])
def test_bit_equal_to_upstream(options, adapter, with_cp):
    options = {**SMALL, **options}
    upstream = MixVisionTransformer(**options).requires_grad_(adapter is None)
    adapted = AdaptedMiT(adapter=adapter, allow_random_base=True, with_cp=with_cp, **options)
    missing, unexpected = adapted.load_state_dict(upstream.state_dict(), strict=False)
    assert all('adapters' in name for name in missing) and not unexpected
    x, outs = torch.randn(2, 3, 40, 58), []
    for model in (upstream, adapted):
        model.train()
        torch.manual_seed(1)
        outs.append(model(x))
    assert len(outs[1]) == len(options.get('out_indices', range(4)))
    for expected, out in zip(*outs):
        assert torch.equal(expected, out)
    if adapter is None:
        for model_outs in outs:
            sum(out.square().mean() for out in model_outs).backward()
        expected = dict(upstream.named_parameters())
        for name, parameter in adapted.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize('site', AdaptedMiT.block_class.stream_sites)
def test_sites_read_and_write_where_they_say(site):
    block = AdaptedMiT(adapter=toy(site), allow_random_base=True, **SMALL).eval().layers[0][1][1]
    module = block.adapters[site]
    torch.nn.init.normal_(module.linear.weight)
    x, hw = torch.randn(2, 80, 8), (8, 10)

    def at(name, value):
        return module(value, hw) if name == site else value

    x1 = at('after_token_mixer', x + at('token_mixer_branch', block.attn(block.norm1(x), hw, identity=0)))
    y = x1 + at('channel_mixer_branch', block.ffn(block.norm2(x1), hw, identity=0))
    if site == 'channel_mixer_parallel':
        y = y + module(x1, hw)
    torch.testing.assert_close(block(x, hw), at('after_channel_mixer', y))


@pytest.mark.parametrize('size', [(29, 29), (64, 64), (33, 121)], ids=str)
def test_any_input_size_is_maps_of_its_own_shape(size):
    seen = []

    class Spy(Toy):

        def build(self, site, block, center):
            module = ToyStream(block.dim, residual=True)
            module.register_forward_hook(lambda _, args, out: seen.append((args[0].shape[1], tuple(args[1]))))
            return module

    model = AdaptedMiT(adapter=dict(type=Spy), allow_random_base=True, **SMALL).eval()
    outs = model(torch.randn(2, 3, *size))
    grids = [tuple(-(-side // stride) for side in size) for stride in (4, 8, 16, 32)]
    assert seen == [(grid[0] * grid[1], grid) for grid in grids for _ in range(2)]
    assert [tuple(out.shape) for out in outs] == [(2, width, *grid) for width, grid in zip((8, 16, 32, 64), grids)]


@pytest.mark.parametrize(
    'options',
    [{}, THREE_STAGES, dict(patch_sizes=[4, 2, 2, 2]),
     dict(sr_ratios=[2, 2, 2, 2]),
     dict(strides=[4, 3, 2, 1])], ids=str)
def test_the_smallest_side_is_the_one_below_which_upstream_fails(options):
    model = AdaptedMiT(adapter=FROZEN, allow_random_base=True, **{**SMALL, **options}).eval()
    least = model.smallest_side()
    assert all(out.isfinite().all() for out in model(torch.randn(1, 3, least, 64)))
    too_small = torch.randn(1, 3, 64, least - 1)
    with pytest.raises(ValueError, match=f'image size=.*this MiT needs at least {least}x{least} pixels'):
        model(too_small)
    with pytest.raises(RuntimeError, match='Kernel size'):
        MixVisionTransformer.forward(model, too_small)


@pytest.mark.parametrize('width, depths', [(32, [2, 2, 2, 2]), (64, [3, 4, 6, 3]), (64, [3, 6, 40, 3])], ids=['b0', 'b2', 'b5'])
def test_every_arch_has_two_adapters_a_block(width, depths):
    with use_meta_device():
        model = AdaRouteMiT(embed_dims=width, num_layers=depths, num_heads=[1, 2, 5, 8], allow_random_base=True)
    assert [len(blocks) for blocks in model.stage_blocks()] == depths
    for blocks in model.stage_blocks():
        assert all(list(block.adapters) == ['after_token_mixer', 'after_channel_mixer'] for block in blocks)
    # The norms after the stages are a part of the base.
    assert set(model.parameter_roles().values()) == {Role.BASE, Role.ADAPTER, Role.EXPERT_CENTER}
    assert model.output_channels() == [width * heads for heads in (1, 2, 5, 8)]


@pytest.fixture
def upstream():
    model = MixVisionTransformer(**SMALL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize('layout', [nvidia_mit, dict, lambda weights: {f'backbone.{name}': weights[name] for name in weights}],
                         ids=['nvidia', 'openmmlab', 'openmmlab-model'])
def test_base_files_of_every_publisher(layout, upstream, tmp_path):
    torch.save(layout(upstream.state_dict()), tmp_path / 'base.pth')
    model, weights = AdaptedMiT(adapter=FROZEN, base_checkpoint=str(tmp_path / 'base.pth'), **SMALL), upstream.state_dict()
    assert model.base_source is BaseSource.FILE
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]), name


def test_base_files_that_do_not_fit_are_named(upstream, tmp_path):
    path = str(tmp_path / 'base.pth')
    weights = nvidia_mit(upstream.state_dict())
    torch.save(weights, path)
    with pytest.raises(ValueError, match='base_checkpoint=.*AdaptedSwin needs weights of a Swin, and these are of a MiT'):
        AdaptedSwin(adapter=FROZEN, base_checkpoint=path, **TINY_SWIN)
    with pytest.raises(ValueError, match='does not fit AdaptedMiT.* unexpected'):
        AdaptedMiT(adapter=FROZEN, base_checkpoint=path, **{**SMALL, 'num_layers': [1, 2, 2, 2]})
    for name in ('norm2.weight', 'block1.0.attn.kv.weight'):
        torch.save({key: value for key, value in weights.items() if key != name}, path)
        with pytest.raises(ValueError, match=r'does not fit AdaptedMiT: of \d+ weights 1 '):
            AdaptedMiT(adapter=FROZEN, base_checkpoint=path, **SMALL)


@pytest.mark.parametrize('options, message', [
    (dict(adapter=toy(*LINEAR_SITES)), "Toy cannot adapt MiT: the site 'linear:q' does not exist in its blocks, which offer t"),
    (dict(pretrained='mit_b0.pth'), "pretrained='mit_b0.pth' is not allowed.*Use base_checkpoint='mit_b0.pth'"),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='x.pth')), "init_cfg=.*base_checkpoint='x.pth'"),
    (dict(frozen_stages=1), "AdaptedMiT has no option 'frozen_stages'"),
    (dict(arch='b2'), "AdaptedMiT has no option 'arch'.*embed_dims.*num_layers"),
    (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\).*this MiT has the outputs 0 to 3'),
], ids=str)
def test_what_it_does_not_take_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        AdaptedMiT(**{'adapter': FROZEN, 'allow_random_base': True, **SMALL, **options})


@pytest.mark.parametrize('given, stages', [(-1, (3, )), ([-2, -1], (2, 3)), (0, (0, ))], ids=str)
def test_outputs_may_be_counted_from_the_end(given, stages):
    model = AdaptedMiT(adapter=FROZEN, allow_random_base=True, out_indices=given, **SMALL)
    assert [out.shape[1] for out in model(torch.randn(1, 3, 32, 32))] == model.output_channels() == [8 * 2**i for i in stages]


def test_without_mmseg_the_package_is_named_when_it_is_asked_for(monkeypatch):
    registry = Registry('model', scope='mmparax', locations=['mmparax.registry'])
    monkeypatch.setattr('mmparax.registry.MODELS', registry)
    monkeypatch.setattr('mmparax.utils.toolboxes.find_spec', lambda name: None if name == 'mmseg' else object())
    names = runpy.run_path(mmparax.backbones.__file__)
    for make in (lambda: registry.build(dict(type='AdaRouteMiT', embed_dims=32)), lambda: names['AdaptedMiT'](embed_dims=32)):
        with pytest.raises(ImportError, match='mmparax needs the package mmseg, .*pip install onedl-mmsegmentation'):
            make()
    assert names['AdaptedSwin'] is AdaptedSwin


def test_the_guide_quotes_the_files_as_they_are():
    guide = (ROOT / 'docs' / 'new_backbone.md').read_text()
    quoted = re.findall(r'<!-- from (\S+) -->\n```python\n(.*?)```', guide, re.DOTALL)
    assert len(quoted) == guide.count('```python') > 3
    for path, block in quoted:
        text = (ROOT / path).read_text()
        for piece in block.split('    ...\n'):
            assert piece in text, (path, piece)
