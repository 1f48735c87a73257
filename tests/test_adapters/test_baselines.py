"""The compared methods against formulas written out from their papers, token by token, and the published counts."""
import math

import pytest
import torch
from torch import nn

from helpers.cases import block_info, build, images, perturb
from mmparax.adapters import VPT, AdaptFormer, LoRA, LoRand, Mona, build_method
from mmparax.backbones.parameters import count_parameters
from mmparax.backbones.roles import Role

HW = (5, 7)
DIM = 12


def adapter(method, site='after_channel_mixer', **options):
    module = method.build(site, block_info(DIM, **options), None).double().eval()
    perturb(module)
    return module


def tokens(seed=0):
    return torch.randn(2, HW[0] * HW[1], DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_depthwise(image, weight, bias):
    """(B, r, H, W) by (r, 1, k, k), one output at a time."""
    size = weight.shape[-1]
    padded = nn.functional.pad(image, [size // 2] * 4)
    out = torch.empty_like(image)
    for y in range(image.shape[2]):
        for x in range(image.shape[3]):
            out[:, :, y, x] = (padded[:, :, y:y + size, x:x + size] * weight[:, 0]).sum((2, 3)) + bias
    return out


def test_mona_is_its_formula():
    module, x = adapter(Mona(hidden_dim=6)), tokens()
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    normed = normed * module.norm.weight + module.norm.bias
    z = (module.norm_scale * normed + module.input_scale * x) @ module.down.weight.T + module.down.bias
    z = z.transpose(1, 2).reshape(2, 6, *HW)
    z = z + sum(naive_depthwise(z, conv.weight, conv.bias) for conv in module.convs) / 3
    z = z + torch.einsum('oi,bihw->bohw', module.projector.weight[:, :, 0, 0], z) + module.projector.bias[:, None, None]
    z = z.reshape(2, 6, -1).transpose(1, 2)
    z = 0.5 * z * (1 + torch.erf(z / math.sqrt(2)))
    torch.testing.assert_close(module(x, HW), x + z @ module.up.weight.T + module.up.bias, rtol=0, atol=1e-12)
    assert [conv.kernel_size for conv in module.convs] == [(3, 3), (5, 5), (7, 7)]


def test_adaptformer_is_its_formula():
    module, x = adapter(AdaptFormer(hidden_dim=6, scale=0.3), 'channel_mixer_parallel'), tokens()
    z = (x @ module.down.weight.T + module.down.bias).clamp(min=0)
    torch.testing.assert_close(module(x, HW), 0.3 * (z @ module.up.weight.T + module.up.bias), rtol=0, atol=1e-12)


def test_lorand_is_its_formula():
    module, x = adapter(LoRand(branches=3, rank=2)), tokens()
    down = sum(p @ k @ q for p, k, q in zip(module.down_out, module.kernels, module.down_in))
    up = sum(p @ k @ q for p, k, q in zip(module.up_out, module.kernels, module.up_in))
    assert down.shape == (DIM // 2, DIM) and up.shape == (DIM, DIM // 2)
    z = nn.functional.gelu(x @ down.T + module.down_bias)
    torch.testing.assert_close(module(x, HW), x + z @ up.T + module.up_bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize('alpha, scale', [(None, 1.), (8, 2.)])
def test_lora_is_its_formula(alpha, scale):
    module = LoRA(rank=4, alpha=alpha).build('linear:fc1', block_info(DIM), None).double()
    perturb(module)
    x, weight = tokens(), torch.randn(4 * DIM, DIM, dtype=torch.float64)
    merged = weight + scale * module.lora_b @ module.lora_a
    torch.testing.assert_close(module(x, x @ weight.T), x @ merged.T, rtol=0, atol=1e-12)
    torch.testing.assert_close(weight + module.weight_update(), merged)


def test_lora_changes_queries_and_values_alone():
    model = build('lora').eval()
    linear = model.stages[2].blocks[1].attn.w_msa.qkv
    x = torch.randn(5, linear.in_features)
    before = linear(x)
    perturb(*linear.adapters.values())
    changed = (linear(x) - before).abs().sum(0).view(3, -1).sum(1)
    assert list(linear.adapters) == ['q', 'v'] and changed[1] == 0 and changed[0] > 0 and changed[2] > 0


def test_starts():
    lora = LoRA(rank=4).build('linear:q', block_info(DIM), None)
    assert lora.lora_b.abs().max() == 0 and 0.8 / math.sqrt(DIM) < lora.lora_a.abs().max() <= 1 / math.sqrt(DIM)
    parallel = AdaptFormer(hidden_dim=64).build('block_parallel', block_info(DIM), None)
    assert not any(parameter.any() for parameter in (parallel.down.bias, parallel.up.weight, parallel.up.bias))
    assert 0.8 / math.sqrt(DIM) < parallel.down.weight.abs().max() <= 1 / math.sqrt(DIM)
    mona = Mona().build('after_block', block_info(DIM), None)
    assert mona.norm_scale.eq(1e-6).all() and mona.input_scale.eq(1).all()
    lorand = LoRand(branches=3, rank=5).build('after_block', block_info(64), None)
    for stack, fan_in in ((lorand.down_in, 64), (lorand.up_in, 32), (lorand.kernels, 5), (lorand.down_bias, 64), (lorand.up_bias,
                                                                                                                  32)):
        assert 0.7 / math.sqrt(fan_in) < stack.abs().max() <= 1 / math.sqrt(fan_in)
    prompts = VPT(num_prompts=50).build('prompts', block_info(DIM, embed_dim=6, patch_size=4), None)()
    bound = math.sqrt(6 / (3 * 16 + 6))
    assert prompts.shape == (50, DIM) and 0.9 * bound < prompts.abs().max() <= bound


@pytest.mark.parametrize('backbone', ['swin', 'vit'])
def test_no_prompts_leave_the_base_as_it_is(backbone):
    model, plain = build(dict(type='mmparax.VPT', num_prompts=0), backbone).eval(), build('frozen', backbone).eval()
    plain.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model(images(backbone)), plain(images(backbone))))


def test_dropout_acts_in_training_alone():
    x = tokens()
    for method, site in ((Mona(dropout=0.5), 'after_block'), (AdaptFormer(dropout=0.5), 'block_parallel')):
        module = adapter(method, site)
        assert torch.equal(module(x, HW), module(x, HW))
        module.train()
        assert not torch.equal(module(x, HW), module(x, HW))


@pytest.mark.parametrize('kind, backbone, trainable', [
    ('bitfit', 'swin', lambda name: name.endswith('.bias')),
    ('norm-tuning', 'swin', lambda name: 'norm' in name),
    ('bitfit', 'convnext', lambda name: name.endswith('.bias')),
    ('norm-tuning', 'convnext', lambda name: 'norm' in name or name.startswith('downsample_layers.') and '.0.' in name and
     not name.startswith('downsample_layers.0') or name.startswith('downsample_layers.0.1')),
])
def test_what_is_tuned_is_a_part_of_the_base(kind, backbone, trainable):
    model = build(kind, backbone)
    roles = model.parameter_roles()
    assert set(roles) == set(build('frozen', backbone).parameter_roles())
    found = {name for name, role in roles.items() if role == 'tuned'}
    assert found == {name for name, role in roles.items() if role is not Role.OUTPUT_NORM and trainable(name)} and found
    assert count_parameters(model).backbone_trainable.tensors == len(found)


# Trained parameters of one adapter, as the method text gives them.
def one_block(method, site, dim=128):
    return sum(parameter.numel() for parameter in method.build(site, block_info(dim), None).parameters())


def test_counts_of_one_adapter():
    c, r = 128, 24
    assert one_block(AdaptFormer(hidden_dim=r), 'block_parallel') == 2 * c * r + r + c
    assert one_block(Mona(hidden_dim=r), 'after_block') == 2 * c * r + r * r + 88 * r + 5 * c
    assert 2 * one_block(LoRA(rank=r), 'linear:q') == 4 * c * r
    assert one_block(VPT(num_prompts=10), 'prompts') == 10 * c
    a, b, n = 4, 20, c // 2
    assert one_block(LoRand(branches=a, rank=b), 'after_block') == 2 * a * (c * b + b * n) + a * b * b + n + c


@pytest.mark.parametrize('config, backbone, message', [
    (dict(type='mmparax.VPT'), 'convnext', "VPT cannot adapt ConvNeXt: the site 'prompts' does not exist.*block_parallel"),
    (dict(type='mmparax.LoRA'), 'convnext', "LoRA cannot adapt ConvNeXt: the site 'linear:q' does not exist.*linear:fc1"),
    (dict(type='mmparax.LoRA', rank=0), 'swin', 'rank=0.*at least 1'),
    (dict(type='mmparax.LoRA', alpha=0), 'swin', 'alpha=0.*above 0'),
    (dict(type='mmparax.LoRA', sites=('prompts', )), 'swin', 'sites=.*LoRA takes.*linear:q'),
    (dict(type='mmparax.Mona', dropout=1), 'swin', 'dropout=1.*below 1'),
    (dict(type='mmparax.AdaptFormer', scale='big'), 'swin', "scale='big'.*finite number"),
    (dict(type='mmparax.AdaptFormer', sites='after_channel_mixer'), 'swin', 'sites=.*AdaptFormer takes'),
    (dict(type='mmparax.LoRand', hidden_dim=0), 'swin', 'hidden_dim=0'),
    (dict(type='mmparax.VPT', num_prompts=-1), 'swin', 'num_prompts=-1.*at least 0'),
    (dict(type='mmparax.BitFit', rank=1), 'swin', "BitFit has no option 'rank'"),
], ids=str)
def test_bad_options_are_named(config, backbone, message):
    with pytest.raises(ValueError, match=message):
        build(config, backbone)


def test_every_method_keeps_its_whole_config():
    config = build_method(dict(type='mmparax.Mona', hidden_dim=9)).config
    assert config == dict(type='Mona', hidden_dim=9, dropout=0.1, sites=None)
