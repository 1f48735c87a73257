"""AdaptedViT against upstream, its extra tokens, base checkpoints and the counts of the paper."""
import logging

import pytest
import torch
from mmpretrain.models.backbones import VisionTransformer

from helpers.base_files import vit as vit_file
from helpers.cases import TINY_VIT, Toy, ToyStream, perturb, toy
from helpers.cases import build as build_cell
from mmparax.adapters.base import PROMPT_SITE
from mmparax.backbones import AdaptedViT, AdaRouteViT
from mmparax.backbones.parameters import count_parameters
from mmparax.backbones.roles import Role
from mmparax.backbones.vit import AdaptedEncoderLayer
from mmparax.utils.meta_device import use_meta_device

FROZEN = dict(type='mmparax.Frozen')
STREAM = ('token_mixer_branch', 'after_token_mixer', 'channel_mixer_parallel', 'channel_mixer_branch', 'after_channel_mixer')


@pytest.mark.parametrize('options', [
    {},
    dict(out_type='cls_token', out_indices=-1),
    dict(out_type='avg_featmap', out_indices=[3]),
    dict(out_type='raw'),
    dict(with_cls_token=False),
    dict(patch_size=7, img_size=49),
    dict(final_norm=False),
    dict(drop_path_rate=0.5, drop_rate=0.1),
    dict(layer_scale_init_value=1e-2),
    dict(pre_norm=True),
    dict(layer_cfgs=dict(ffn_type='swiglu_fused')),
], ids=str)
@pytest.mark.parametrize('adapter', [None, FROZEN], ids=['full', 'frozen'])
@pytest.mark.parametrize('with_cp', [False, True], ids=['plain', 'cp'])
def test_bit_equal_to_upstream(options, adapter, with_cp):
    options = {**TINY_VIT, **options}
    upstream = VisionTransformer(**options)
    adapted = AdaptedViT(adapter=adapter, allow_random_base=True, with_cp=with_cp, **options)
    torch.nn.init.normal_(upstream.pos_embed)
    missing, unexpected = adapted.load_state_dict(upstream.state_dict())
    assert not missing and not unexpected
    x, outs = torch.randn(2, 3, 56, 40), []
    for model in (upstream, adapted):
        model.train()
        torch.manual_seed(1)
        outs.append(model(x))
    for expected, out in zip(*outs):
        assert torch.equal(expected, out)
    if adapter is None and not with_cp:
        for model_outs in outs:
            sum(out.square().mean() for out in model_outs).backward()
        expected = dict(upstream.named_parameters())
        for name, parameter in adapted.named_parameters():
            assert (parameter.grad is None) == (expected[name].grad is None), name
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize('size', [(1, 1), (48, 48), (41, 90), (8, 160)], ids=str)
def test_any_input_size_is_a_map_of_its_own_shape(size):
    seen = []

    class Spy(Toy):

        def build(self, site, block, center):
            module = ToyStream(block.dim, residual=True)
            module.register_forward_hook(lambda _, args, out: seen.append((args[0].shape[1], tuple(args[1]))))
            return module

    model = AdaptedViT(adapter=dict(type=Spy), allow_random_base=True, **TINY_VIT).eval()
    outs = model(torch.randn(2, 3, *size))
    grid = tuple(-(-side // 8) for side in size)
    assert seen == [(grid[0] * grid[1], grid)] * 4
    assert all(out.shape == (2, 16, *grid) and out.isfinite().all() for out in outs)


def test_recomputation_knows_the_size_of_its_own_input():
    model = AdaRouteViT(hidden_dim=4, allow_random_base=True, with_cp=True, **TINY_VIT)
    first = sum(out.mean() for out in model(torch.randn(1, 3, 48, 32)))
    second = sum(out.mean() for out in model(torch.randn(1, 3, 32, 64)))
    (first + second).backward()


@pytest.mark.parametrize('site', STREAM)
@pytest.mark.parametrize('extra', [0, 1, 5], ids=['none', 'class', 'class-and-registers'])
def test_extra_tokens_pass_by(site, extra):
    model = AdaptedViT(adapter=toy(site), allow_random_base=True, **TINY_VIT).eval()
    plain = AdaptedViT(adapter=FROZEN, allow_random_base=True, **TINY_VIT).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    block, upstream = model.layers[-1], plain.layers[-1]
    block.extra_tokens, block.hw, upstream.hw = extra, (3, 4), (3, 4)
    torch.nn.init.ones_(block.adapters[site].linear.bias)
    x = torch.randn(2, extra + 12, 16)
    out, expected = block(x), upstream(x)
    if site in ('after_channel_mixer', 'channel_mixer_branch', 'channel_mixer_parallel'):
        torch.testing.assert_close(out[:, extra:], expected[:, extra:] + 1)
        torch.testing.assert_close(out[:, :extra], expected[:, :extra])
    else:  # before the channel mixer, which sees each token alone
        torch.testing.assert_close(out[:, :extra], expected[:, :extra])
        assert (out[:, extra:] - expected[:, extra:]).abs().amax((0, 2)).min() > 0.1


def test_prompts_stand_between_class_token_and_patches():
    model = AdaptedViT(adapter=toy(PROMPT_SITE, prompts=3), allow_random_base=True, **TINY_VIT).eval()
    block = model.layers[0]
    x = torch.randn(2, 1 + 12, 16)
    prompts = block.adapters[PROMPT_SITE].tokens.expand(2, -1, -1)
    joint = torch.cat([x[:, :1], prompts, x[:, 1:]], 1)
    attended = block.attn(block.ln1(joint))
    stream = x + torch.cat([attended[:, :1], attended[:, 4:]], 1)
    block.hw = (3, 4)
    torch.testing.assert_close(block(x), block.ffn(block.ln2(stream), identity=stream))
    none, frozen = (AdaptedViT(adapter=adapter, allow_random_base=True, **TINY_VIT).eval()
                    for adapter in (toy(PROMPT_SITE, prompts=0), FROZEN))
    frozen.load_state_dict(none.state_dict(), strict=False)
    image = torch.randn(2, 3, 48, 48)
    assert all(torch.equal(a, b) for a, b in zip(none(image), frozen(image)))


def test_last_adapters_under_a_class_token_head_get_zeros_not_nothing():
    model = AdaRouteViT(hidden_dim=4, allow_random_base=True, **{**TINY_VIT, 'out_type': 'cls_token', 'out_indices': -1})
    model(torch.randn(2, 3, 48, 48))[0].square().mean().backward()
    for index, block in enumerate(model.layers):
        for name, parameter in block.adapters.named_parameters():
            assert parameter.grad is not None, (index, name)
            assert index < 3 or parameter.grad.eq(0).all(), (index, name)


@pytest.mark.parametrize('method, extra', [('adaptformer', 1), ('lorand', 1), ('adaptformer', 0)])
def test_methods_that_see_each_token_alone_adapt_the_class_token_too(method, extra):
    model = build_cell(method, 'vit', out_type='cls_token' if extra else 'featmap', out_indices=-1)
    block = model.layers[-1].eval()
    perturb(block.adapters)
    block.extra_tokens, block.hw = extra, (3, 4)
    x, plain = torch.randn(2, extra + 12, 16), build_cell('frozen', 'vit').layers[-1].eval()
    plain.load_state_dict(block.state_dict(), strict=False)
    for site, module in block.adapters.items():
        assert module.per_token and site in ('channel_mixer_parallel', 'token_mixer_branch', 'after_channel_mixer')
    if method == 'adaptformer':
        middle = x + plain.attn(plain.ln1(x))
        expected = plain(x) + block.adapters['channel_mixer_parallel'](middle, None)
    else:
        middle = x + block.adapters['token_mixer_branch'](plain.attn(plain.ln1(x)), None)
        expected = block.adapters['after_channel_mixer'](plain.ffn(plain.ln2(middle), identity=middle), None)
    torch.testing.assert_close(block(x), expected)
    if extra:
        model(torch.randn(2, 3, 48, 48))[0].square().mean().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in block.adapters.parameters())


def test_parameter_counts_of_table_4():
    options = dict(arch='base', img_size=224, patch_size=16, out_type='cls_token', allow_random_base=True)
    with use_meta_device():
        adaroute = count_parameters(AdaRouteViT(router_dim=24, **options))
        full = count_parameters(AdaptedViT(**options))
        frozen = count_parameters(AdaptedViT(adapter=FROZEN, **options))
        one_site = AdaptedViT(adapter=dict(type='mmparax.AdaRoute', sites='after_channel_mixer'), **options)
    assert round(adaroute.trainable_in_backbone / 1e6, 3) == 3.869
    assert round(full.trainable_in_backbone / 1e6, 3) == 85.799
    assert frozen.trainable_in_backbone == 0
    assert all(list(block.adapters) == ['after_channel_mixer'] for block in one_site.layers)
    center, = one_site.expert_centers
    assert len(center) == 1 and center[0].down.shape == (12, 128, 768)


def test_the_final_norm_is_of_the_base_and_frozen():
    model = AdaRouteViT(hidden_dim=4, allow_random_base=True, **TINY_VIT)
    assert model.parameter_roles()['ln1.weight'] is Role.BASE and not model.ln1.weight.requires_grad
    pooled = AdaRouteViT(hidden_dim=4, allow_random_base=True, **{**TINY_VIT, 'out_type': 'avg_featmap', 'out_indices': -1})
    assert pooled.parameter_roles()['ln2.weight'] is Role.OUTPUT_NORM and pooled.ln2.weight.requires_grad


@pytest.fixture
def upstream():
    model = VisionTransformer(**{**TINY_VIT, 'layer_scale_init_value': 0.1})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def build(path, **options):
    return AdaptedViT(adapter=FROZEN, base_checkpoint=str(path), **{**TINY_VIT, 'layer_scale_init_value': 0.1, **options})


@pytest.mark.parametrize('layout', ['mae', 'adaptformer', 'openmmlab'])
def test_base_files_of_every_publisher(layout, upstream, tmp_path):
    torch.save({'model': vit_file(upstream.state_dict(), layout)}, tmp_path / 'base.pth')
    weights = dict(upstream.named_parameters())
    for name, parameter in build(tmp_path / 'base.pth').named_parameters():
        assert torch.equal(parameter, weights[name]), name


def test_a_position_table_of_another_size_is_interpolated_and_said(upstream, tmp_path, caplog):
    torch.save({'model': vit_file(upstream.state_dict(), 'mae')}, tmp_path / 'base.pth')
    with caplog.at_level(logging.INFO):
        larger = build(tmp_path / 'base.pth', img_size=(64, 80))
    assert larger.pos_embed.shape == (1, 1 + 8 * 10, 16)
    expected = torch.nn.functional.interpolate(upstream.pos_embed[:, 1:].reshape(1, 6, 6, 16).permute(0, 3, 1, 2), (8, 10),
                                               mode='bicubic').flatten(2).transpose(1, 2)
    torch.testing.assert_close(larger.pos_embed[:, 1:], expected)
    assert torch.equal(larger.pos_embed[:, :1], upstream.pos_embed[:, :1])


@pytest.mark.parametrize('img_size', [(16, 144), (24, 96)], ids=str)  # as many patches as the base, and as a square has
def test_another_shape_with_a_square_s_number_of_patches_is_interpolated(img_size, upstream, tmp_path):
    torch.save({'model': vit_file(upstream.state_dict(), 'mae')}, tmp_path / 'base.pth')
    model, grid = build(tmp_path / 'base.pth', img_size=img_size), (img_size[0] // 8, img_size[1] // 8)
    assert grid[0] * grid[1] == 36
    square = build(tmp_path / 'base.pth')
    image = torch.randn(1, 3, *img_size)
    assert all(torch.equal(a, b) for a, b in zip(model.eval()(image), square.eval()(image)))


def test_what_a_model_has_no_place_for_is_left_out_of_its_base(upstream, tmp_path):
    torch.save({'model': vit_file(upstream.state_dict(), 'mae')}, tmp_path / 'base.pth')
    bare = build(tmp_path / 'base.pth', with_cls_token=False, final_norm=False)
    assert torch.equal(bare.pos_embed, upstream.pos_embed[:, 1:]) and bare.cls_token is None
    weights = {**upstream.state_dict(), 'register_tokens': torch.zeros(1, 4, 16)}
    torch.save({'model': vit_file(weights, 'mae')}, tmp_path / 'registers.pth')
    with pytest.raises(ValueError, match='base_checkpoint=.* its model has register tokens'):
        build(tmp_path / 'registers.pth')


def test_a_checkpoint_of_another_img_size_is_named(upstream, tmp_path):
    torch.save({'model': vit_file(upstream.state_dict(), 'mae')}, tmp_path / 'base.pth')
    model, other = build(tmp_path / 'base.pth'), build(tmp_path / 'base.pth', img_size=64)
    for load in (other.load_state_dict, other.check_state):
        with pytest.raises(ValueError, match=r'img_size=\(64, 64\) is not allowed: the checkpoint has .* 37 entries .* of 65'):
            load(model.state_dict())


def test_a_position_table_that_is_no_square_is_refused(upstream, tmp_path):
    weights = {**upstream.state_dict(), 'pos_embed': torch.zeros(1, 1 + 35, 16)}
    torch.save({'model': vit_file(weights, 'mae')}, tmp_path / 'base.pth')
    with pytest.raises(ValueError, match='base_checkpoint=.*its position table has 36 entries, which are not 1 extra'):
        build(tmp_path / 'base.pth')


def test_blocks_are_upstream_s():
    model = AdaptedViT(adapter=None, allow_random_base=True, **TINY_VIT)
    assert all(type(block) is AdaptedEncoderLayer for block in model.layers)
    assert model.output_channels() == [16, 16]
    assert AdaptedViT(adapter=None, allow_random_base=True, **{**TINY_VIT, 'out_type': 'cls_token'}).output_channels() is None
