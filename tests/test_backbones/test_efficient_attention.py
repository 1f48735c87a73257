"""A frozen Swin with efficient attention is upstream's up to rounding, in outputs and in every gradient."""
import copy
import io
import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models.backbones import SwinTransformer
from mmpretrain.models.utils.attention import ShiftWindowMSA, WindowMSA
from torch._subclasses.fake_tensor import FakeTensorMode

import mmparax
from helpers.cases import METHODS, TINY_SWIN, build
from mmparax.backbones import AdaptedSwin, AdaRouteSwin
from mmparax.backbones.swin import PromptedWindowMSA
from mmparax.backbones.swin_attention import (
    EfficientWindowMSA,
    find_window_rows,
    get_shift_mask,
    is_fused_attention_faster,
    make_shift_mask,
)
from mmparax.errors import InputError

SMALL = dict(arch=dict(embed_dims=8, depths=[2, 2, 2], num_heads=[1, 2, 4]), out_indices=(0, 1, 2), pad_small_map=True)
FAST = ['frozen', 'adaroute', 'lora-ffn', 'lora']  # methods that leave the position bias alone


@pytest.fixture(autouse=True)
def nothing_of_other_tests():
    get_shift_mask.cache_clear()
    find_window_rows.cache_clear()


@pytest.fixture(params=['step by step', 'one operation'])
def attention(request, monkeypatch):
    """Both ways to attend; by itself a GPU takes the second one, a CPU the first."""
    monkeypatch.setattr('mmparax.backbones.swin_attention.is_fused_attention_faster', lambda x: request.param == 'one operation')
    return request.param


def pair(method, **options):
    """A backbone with efficient attention and one with upstream's, with the same weights, none of them neutral, in float64."""
    efficient, upstream = (build(method, efficient_attention=choice, **{**SMALL, **options}).double() for choice in (True, False))
    with torch.no_grad():
        for parameter in efficient.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    result = upstream.load_state_dict(efficient.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    return efficient, upstream


def picture(size=(64, 64), batch=2, dtype=torch.float64):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def results(model, x, seed=0):
    """Outputs, gradients of trainable parameters, and that of the input, by name."""
    model.zero_grad()
    x = x.detach().requires_grad_()
    torch.manual_seed(seed)
    outs = model(x)
    sum(out.sin().sum() for out in outs).backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {**{f'output {i}': out.detach() for i, out in enumerate(outs)}, **grads, 'input': x.grad}


def outputs(model, x):
    """Name -> output."""
    with torch.no_grad():
        return {f'output {i}': out for i, out in enumerate(model(x))}


def assert_close(found, expected):
    """Float64 rounds by 1e-16; a network of some hundred operations makes more of it, yet less than 1e-10."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value is not None and value.abs().max() > 0, name
        error = (found[name] - value).abs().max() / value.abs().max()
        assert error < 1e-10, (name, error)


def attentions(model):
    return [block.attn for blocks in model.stage_blocks() for block in blocks]


@pytest.mark.parametrize('size', [(96, 130), pytest.param((64, 64), marks=pytest.mark.full)], ids=str)
@pytest.mark.parametrize('method', ['frozen', 'adaroute', 'lora-ffn', 'bitfit', 'vpt'])
def test_outputs_and_gradients_are_those_of_upstream_s_operations(method, size, attention):
    efficient, upstream = pair(method, stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(attn_drop=0.))))
    assert_close(results(efficient, picture(size)), results(upstream, picture(size)))


@pytest.mark.full
@pytest.mark.parametrize('size', [(224, 224), (33, 65), (1, 1), (224, 28)], ids=str)
@pytest.mark.parametrize('method', [method for method in METHODS if method != 'toy-block'])
@pytest.mark.parametrize('with_cp', [True, False])
def test_every_method_at_every_size(method, size, with_cp):
    efficient, upstream = (model.eval() for model in pair(method, with_cp=with_cp))
    assert_close(results(efficient, picture(size, batch=1)), results(upstream, picture(size, batch=1)))


def test_lora_on_the_attention_too():
    efficient, upstream = pair(dict(type='mmparax.LoRA', rank=4))
    assert_close(results(efficient, picture()), results(upstream, picture()))


def test_with_activation_checkpointing():
    efficient, upstream = pair('adaroute', with_cp=True)
    assert_close(results(efficient, picture()), results(upstream, picture()))


def test_without_padding_of_small_maps():
    """A stage whose map is as large as a window does not shift, whatever its blocks say."""
    efficient, upstream = pair('frozen', pad_small_map=False)
    assert_close(results(efficient, picture((224, 250))), results(upstream, picture((224, 250))))


def test_a_scale_of_its_own():
    efficient, upstream = pair('frozen')
    for model in (efficient, upstream):
        for attention in attentions(model):
            attention.w_msa.scale = 0.37
    assert_close(results(efficient, picture()), results(upstream, picture()))


def test_single_precision_is_close_and_autocast_too(attention):
    efficient, upstream = (model.float().eval() for model in pair('adaroute'))
    x = picture(dtype=torch.float32)
    with torch.no_grad():
        exact = upstream(x)
        for found, expected in zip(efficient(x), exact):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast('cpu', dtype=dtype):
                halves = [(out.float() - expected).abs().mean() / expected.abs().mean() for model in (efficient, upstream)
                          for out, expected in zip(model(x), exact)]
            # Half precision costs as much as with upstream's attention.
            for error, upstream_error in zip(halves[:len(exact)], halves[len(exact):]):
                assert error < 2 * upstream_error + 1e-3


@pytest.mark.parametrize('method', FAST)
def test_a_frozen_base_attends_by_one_operation_on_a_gpu(method, monkeypatch):
    monkeypatch.setattr('mmparax.backbones.swin_attention.is_fused_attention_faster', lambda x: True)
    efficient, upstream = pair(method)
    calls, attend = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, 'scaled_dot_product_attention', lambda *args, **kwargs: calls.append(1) or attend(*args, **kwargs))
    efficient(picture(batch=1))
    assert len(calls) == len(attentions(efficient))
    upstream(picture(batch=1))
    assert len(calls) == len(attentions(efficient))
    for attention in attentions(upstream):
        assert type(attention) is ShiftWindowMSA and type(attention.w_msa) is WindowMSA


@pytest.mark.parametrize('hw, side, shift', [((7, 7), 7, 3), ((7, 14), 7, 3), ((12, 8), 4, 2), ((21, 35), 7, 3),
                                             ((24, 12), 12, 6), ((8, 8), 4, 1), ((6, 9), 3, 2)])
def test_the_shift_mask_is_that_of_mmpretrain(hw, side, shift):
    theirs = ShiftWindowMSA.get_attn_mask(hw, side, shift, torch.device('cpu'))
    own = make_shift_mask(hw, side, shift, torch.device('cpu'), torch.float32)
    assert own.dtype == theirs.dtype and torch.equal(own, theirs) and set(own.unique().tolist()) == {0., -100.}
    assert EfficientWindowMSA.get_attn_mask(hw, side, 0) is None is ShiftWindowMSA.get_attn_mask(hw, side, 0)


@pytest.mark.parametrize('batch, windows, heads, whether', [(4, 1334, 6, True), (1, 10922, 6, True), (1, 10923, 6, False),
                                                            (6, 10923, 4, False), (1, 65535, 1, True)])
def test_images_with_more_windows_than_a_launch_takes_are_left_to_separate_operations(batch, windows, heads, whether):
    """On a GPU; windows are on the axis of the batch, or with a mask on that of the heads."""
    assert is_fused_attention_faster(SimpleNamespace(is_cuda=True, shape=(batch, windows, heads, 49, 32))) is whether
    assert not is_fused_attention_faster(torch.empty(batch, windows, heads, 0, 32))


def test_what_no_memory_stands_for_runs_and_is_not_kept():
    """Fake tensors, by which memory is counted: the next real image must not meet them."""
    efficient, upstream = pair('adaroute')
    with FakeTensorMode(allow_non_fake_inputs=True):
        outs = efficient(torch.randn(1, 3, 76, 60, dtype=torch.float64))
    assert [out.shape for out in outs] == [out.shape for out in upstream(torch.randn(1, 3, 76, 60, dtype=torch.float64))]
    assert find_window_rows.cache_info().currsize == get_shift_mask.cache_info().currsize == 0
    x = torch.randn(1, 3, 76, 60, dtype=torch.float64)
    for a, b in zip(efficient(x), upstream(x)):
        torch.testing.assert_close(a, b)
    assert find_window_rows.cache_info().currsize and get_shift_mask.cache_info().currsize


def test_attention_of_another_kind_stays_as_it_is():
    for attention in attentions(build('vpt')):
        assert type(attention) is EfficientWindowMSA and type(attention.w_msa) is PromptedWindowMSA
    assert all(type(attention) is EfficientWindowMSA for attention in attentions(build('frozen')))


def test_a_position_bias_that_trains_gets_its_gradient():
    """As when a method tunes it, or a user unfreezes it later."""
    efficient, upstream = pair('frozen')
    for model in (efficient, upstream):
        for attention in attentions(model):
            attention.w_msa.relative_position_bias_table.requires_grad_()
    found, expected = results(efficient, picture()), results(upstream, picture())
    assert_close(found, expected)
    assert sum('bias_table' in name for name in found) == len(attentions(efficient))


def test_dropout_of_the_attention_is_active_in_training_alone(attention):
    efficient, upstream = pair('frozen', stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(attn_drop=0.5))))
    x = picture(batch=1)
    efficient.eval(), upstream.eval()
    assert_close(results(efficient, x), results(upstream, x))
    efficient.train()
    assert not torch.equal(efficient(x)[0], efficient(x)[0])
    # Its mean is what it is without dropout: the first block's attention is linear in the dropped weights.
    first = attentions(efficient)[0]
    tokens = torch.randn(1, 49, 8, dtype=torch.float64)
    with torch.no_grad():
        mean = torch.stack([first(tokens, (7, 7)) for _ in range(500)]).mean(0)
        exact = first.eval()(tokens, (7, 7))
    assert (mean - exact).abs().max() < 0.2 * exact.abs().max()


def test_stochastic_depth_draws_the_same_numbers():
    efficient, upstream = pair('frozen', drop_path_rate=0.5)
    assert_close(results(efficient, picture()), results(upstream, picture()))


@pytest.mark.parametrize('method', ['frozen', 'adaroute', 'lora', 'vpt', 'bitfit'])
def test_names_and_roles_stay(method):
    efficient, upstream = build(method), build(method, efficient_attention=False)
    assert list(efficient.state_dict()) == list(upstream.state_dict())
    assert efficient.parameter_roles() == upstream.parameter_roles()
    assert [p.requires_grad for p in efficient.parameters()] == [p.requires_grad for p in upstream.parameters()]


def test_full_fine_tuning_is_upstream_s_function_bit_for_bit():
    options = {**TINY_SWIN, 'pad_small_map': True}
    upstream, full = SwinTransformer(**options), build(None, efficient_attention=True)
    assert all(type(attention) is ShiftWindowMSA and type(attention.w_msa) is WindowMSA for attention in attentions(full))
    full.load_state_dict(upstream.state_dict())
    x = picture(dtype=torch.float32)
    assert all(torch.equal(*outs) for outs in zip(upstream(x), full(x)))


@pytest.mark.parametrize('value', ['yes', None, 2])
def test_another_value_is_named(value):
    with pytest.raises(InputError, match=f'efficient_attention={value!r} is not allowed: choose one of True, False'):
        build('frozen', efficient_attention=value)


def test_the_choice_is_an_option_of_swin_alone():
    model = AdaRouteSwin(hidden_dim=4, efficient_attention=False, allow_random_base=True, **TINY_SWIN)
    assert all(type(attention) is ShiftWindowMSA for attention in attentions(model))
    for backbone in ('convnext', 'vit', 'mit'):
        with pytest.raises(InputError, match='has no option .efficient_attention.; its options are'):
            build('frozen', backbone, efficient_attention=True)


@pytest.fixture
def base(tmp_path):
    backbone = build('frozen', **SMALL)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    torch.save(backbone.state_dict(), tmp_path / 'base.pth')
    return str(tmp_path / 'base.pth')


@pytest.mark.parametrize('saved_efficient', [True, False])
def test_adapters_go_between_efficient_and_upstream_attention(saved_efficient, base, tmp_path):

    def make(efficient_attention):
        return AdaptedSwin(adapter=METHODS['adaroute'][0], base_checkpoint=base, efficient_attention=efficient_attention,
                           **SMALL).double().eval()

    saved, loaded = make(saved_efficient), make(not saved_efficient)
    x = picture()
    with torch.no_grad():
        for parameter in saved.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    mmparax.save_adapter(saved.float(), str(tmp_path / 'adapter.safetensors'))
    mmparax.load_adapter(loaded.float(), str(tmp_path / 'adapter.safetensors'))
    assert_close(outputs(loaded.double(), x), outputs(saved.double(), x))


@pytest.mark.parametrize('method', ['lora', 'lora-ffn'])
def test_merged_adapters_are_the_same_with_efficient_attention(method):
    efficient, upstream = (model.eval() for model in pair(method))
    x = picture()
    expected = outputs(upstream, x)
    assert mmparax.merge_adapter(efficient) > 0
    assert_close(outputs(efficient, x), expected)
    mmparax.unmerge_adapter(efficient)
    assert_close(outputs(efficient, x), expected)


@pytest.mark.parametrize('mode', [torch.inference_mode, torch.no_grad])
def test_masks_of_an_evaluation_serve_training(mode):
    efficient, upstream = pair('adaroute')
    x = picture()
    with mode():
        efficient.eval()(x)
    assert get_shift_mask.cache_info().currsize > 0
    efficient.train()
    assert_close(results(efficient, x), results(upstream, x))


def test_image_sizes_may_change():
    efficient, upstream = (model.eval() for model in pair('frozen'))
    for size in [(64, 64), (96, 130), (40, 58), (96, 130), (130, 96), (64, 64)]:
        x = picture(size, batch=1)
        assert_close(outputs(efficient, x), outputs(upstream, x))
    made = get_shift_mask.cache_info().misses
    outputs(efficient, x)
    assert get_shift_mask.cache_info().misses == made  # the next image of a size makes none


def test_copies_and_pickles_stay_fast():
    model = build('adaroute').eval()
    x = picture(dtype=torch.float32, batch=1)
    expected = outputs(model, x)
    for other in (copy.deepcopy(model), pickle.load(io.BytesIO(pickle.dumps(model)))):
        assert all(type(attention) is EfficientWindowMSA for attention in attentions(other))
        assert all(torch.equal(out, expected[name]) for name, out in outputs(other, x).items())


def test_a_bias_of_queries_that_trains_gets_the_gradient_of_padding_too(attention):
    """Padded positions are keys and values, too: they hold the bias of the linear map, or nothing if it has none."""
    efficient, upstream = pair('frozen')
    for model in (efficient, upstream):
        for each in attentions(model):
            each.w_msa.qkv.bias.requires_grad_()
    found = results(efficient, picture((40, 58)))
    assert sum('qkv.bias' in name for name in found) == len(attentions(efficient))
    assert_close(found, results(upstream, picture((40, 58))))


def test_without_bias_of_queries():
    assert_close(*(results(model, picture((40, 58)))
                   for model in pair('frozen', stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(qkv_bias=False))))))


def test_linear_maps_do_not_see_the_padding():
    efficient, upstream = (model.eval() for model in pair('frozen'))
    seen = {}
    for model in (efficient, upstream):
        for name, module in model.named_modules():
            if name.endswith(('qkv', 'proj')):
                key = (model is efficient, name)
                module.register_forward_pre_hook(
                    lambda _, inputs, key=key: seen.update({key: inputs[0].numel() // inputs[0].shape[-1]}))
        outputs(model, picture((40, 40), batch=1))
    first = 'stages.0.blocks.0.attn.w_msa.'
    assert seen[True, first + 'qkv'] == seen[True, first + 'proj'] == 10 * 10
    assert seen[False, first + 'qkv'] == seen[False, first + 'proj'] == 14 * 14


def test_who_listens_to_the_inner_attention_hears_it():
    efficient, upstream = (model.eval() for model in pair('frozen'))
    heard = []
    for each in attentions(efficient):
        each.w_msa.register_forward_hook(lambda module, inputs, out: heard.append(out.shape))
    assert_close(outputs(efficient, picture()), outputs(upstream, picture()))
    assert len(heard) == len(attentions(efficient))


def test_gradients_may_be_differentiated_again():
    efficient, upstream = pair('frozen', drop_path_rate=0.)
    again = []
    for model in (efficient, upstream):
        x = picture((40, 40), batch=1).requires_grad_()
        grad, = torch.autograd.grad(sum(out.sin().sum() for out in model(x)), x, create_graph=True)
        again.append(dict(zip('xy', torch.autograd.grad(grad.square().sum(), [x]))))
    assert_close(*again)


def test_tokens_that_do_not_fit_the_map_are_refused_as_upstream_does():
    efficient, upstream = pair('frozen')
    for model in (efficient, upstream):
        with pytest.raises(AssertionError):
            attentions(model)[0](torch.zeros(1, 48, 8, dtype=torch.float64), (7, 7))
    efficient, upstream = pair('frozen', pad_small_map=False)
    for model in (efficient, upstream):
        with pytest.raises(AssertionError, match='pad_small_map'):
            attentions(model)[0](torch.zeros(1, 25, 8, dtype=torch.float64), (5, 5))


def test_masks_of_another_default_type_are_not_taken():
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.float64, torch.float32):
            torch.set_default_dtype(dtype)
            assert EfficientWindowMSA.get_attn_mask((14, 14), 7, 3, torch.device('cpu')).dtype == dtype
    finally:
        torch.set_default_dtype(before)
