"""Each kind of site does what the contract says, and what cannot be adapted is refused."""
import pytest
import torch
from mmpretrain.models.backbones.swin_transformer import SwinBlock
from torch import nn

from helpers.cases import TINY_SWIN, Toy, ToyPrompts, build, images, toy
from mmparax.adapters.base import LINEAR_SITES, PROMPT_SITE, BlockInfo, Method, build_method
from mmparax.backbones import AdaptedSwin, AdaRouteSwin
from mmparax.backbones.swin import AdaptedSwinBlock, PromptedWindowMSA


class Recorder(nn.Module):
    """Adds a constant and keeps what came in."""

    def __init__(self, value, residual):
        super().__init__()
        self.value, self.residual = nn.Parameter(torch.tensor(value)), residual

    def reset_parameters(self):
        pass

    def forward(self, x, hw):
        self.seen = x
        return x + self.value if self.residual else self.value.expand_as(x)


class Recording(Toy):

    def build(self, site, block, center):
        return Recorder(0.5, residual='parallel' not in site)


def one_block(*sites):
    model = build(dict(type=Recording, sites=sites), arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]))
    block = model.stages[0].blocks[0].eval()
    plain = SwinBlock(8, 1, pad_small_map=True).eval()
    plain.load_state_dict(block.state_dict(), strict=False)
    return block, plain


def steps(plain, x, hw):
    """(attention branch, stream after it, channel-mixer branch, output) of upstream's block."""
    attention = plain.attn(plain.norm1(x), hw)
    middle = attention + x
    ffn = plain.ffn.layers(plain.norm2(middle))
    return attention, middle, ffn, middle + ffn


def test_stream_sites_read_and_write_where_they_say():
    x, hw = torch.randn(2, 63, 8), (7, 9)
    block, plain = one_block('after_token_mixer', 'after_channel_mixer')
    attention, middle, _, _ = steps(plain, x, hw)
    out = block(x, hw)
    torch.testing.assert_close(block.adapters['after_token_mixer'].seen, middle)
    shifted = middle + 0.5
    expected = shifted + plain.ffn.layers(plain.norm2(shifted))
    torch.testing.assert_close(block.adapters['after_channel_mixer'].seen, expected)
    torch.testing.assert_close(out, expected + 0.5)


def test_branch_sites_come_before_the_residual_sum():
    x, hw = torch.randn(2, 63, 8), (7, 9)
    block, plain = one_block('token_mixer_branch', 'channel_mixer_branch')
    attention, middle, _, _ = steps(plain, x, hw)
    out = block(x, hw)
    torch.testing.assert_close(block.adapters['token_mixer_branch'].seen, attention)
    branch = plain.ffn.layers(plain.norm2(middle + 0.5))
    torch.testing.assert_close(block.adapters['channel_mixer_branch'].seen, branch)
    torch.testing.assert_close(out, middle + 0.5 + branch + 0.5)


def test_parallel_site_reads_before_the_norm_and_adds_to_the_sum():
    x, hw = torch.randn(2, 63, 8), (7, 9)
    block, plain = one_block('channel_mixer_parallel')
    _, middle, _, expected = steps(plain, x, hw)
    torch.testing.assert_close(block(x, hw), expected + 0.5)
    torch.testing.assert_close(block.adapters['channel_mixer_parallel'].seen, middle)


@pytest.mark.parametrize('site', LINEAR_SITES)
def test_linear_sites_change_their_part_of_the_map_alone(site):
    model = build(toy(site))
    path, third = AdaptedSwinBlock.linear_paths[site]
    linear = model.stages[1].blocks[0].get_submodule(path)
    x = torch.randn(5, linear.in_features)
    before = linear(x)
    delta = next(iter(linear.adapters.values())).delta
    nn.init.ones_(delta)
    change = linear(x) - before
    width = linear.out_features // (1 if third is None else 3)
    start = width * (third or 0)
    torch.testing.assert_close(change[:, start:start + width], x.sum(1, keepdim=True).expand(-1, width))
    assert change[:, :start].abs().sum() + change[:, start + width:].abs().sum() == 0
    assert {'weight', 'bias'} < set(linear.state_dict())


def naive_prompted_attention(attention, windows, prompts, mask):
    """One window and one head at a time, with the bias and mask looked up token by token."""
    count, tokens, heads = len(prompts), windows.shape[1], attention.num_heads
    table, index = attention.relative_position_bias_table, attention.relative_position_index
    outputs = []
    for number, window in enumerate(windows):
        joint = torch.cat([prompts, window])
        q, k, v = attention.qkv(joint).chunk(3, dim=-1)
        rows = []
        for head in range(heads):
            part = slice(head * q.shape[1] // heads, (head + 1) * q.shape[1] // heads)
            scores = attention.scale * q[:, part] @ k[:, part].T
            for i in range(tokens):
                for j in range(tokens):
                    scores[count + i, count + j] += table[index[i, j], head]
                    if mask is not None:
                        scores[count + i, count + j] += mask[number % len(mask), i, j]
            rows.append(scores.softmax(-1) @ v[:, part])
        outputs.append(attention.proj(torch.cat(rows, -1))[count:])
    return torch.stack(outputs)


@pytest.mark.parametrize('masked', [False, True])
def test_prompts_take_part_without_bias_and_mask(masked):
    model = build(toy(PROMPT_SITE, prompts=2), window_size=2).eval()
    block = model.stages[1].blocks[1]
    attention = block.attn.w_msa
    assert type(attention) is PromptedWindowMSA
    windows = torch.randn(8, 4, 16)
    with torch.no_grad():
        nn.init.normal_(attention.relative_position_bias_table)
        prompts = block.norm1(attention.adapters['prompts'].tokens)
        mask = -100. * torch.randint(0, 2, (4, 4, 4)) if masked else None
        torch.testing.assert_close(attention(windows, mask), naive_prompted_attention(attention, windows, prompts, mask))


def test_no_prompts_are_bit_equal_to_none():
    model, plain = (build(method, efficient_attention=False).eval() for method in (toy(PROMPT_SITE, prompts=0), 'frozen'))
    plain.load_state_dict(model.state_dict(), strict=False)
    assert all(torch.equal(a, b) for a, b in zip(model(images()), plain(images())))


def test_prompts_add_no_key_of_norm1():
    model = build(toy(PROMPT_SITE))
    added = set(model.state_dict()) - set(build('frozen').state_dict())
    assert {key.rsplit('.', 3)[-3:][1] for key in added} == {'prompts'}
    assert isinstance(model.stages[0].blocks[0].attn.w_msa.adapters['prompts'], ToyPrompts)


def test_methods_see_the_block():
    seen = []

    class Spy(Toy):

        def build(self, site, block, center):
            seen.append((site, block))
            return super().build(site, block, center)

    build(dict(type=Spy, sites=('after_channel_mixer', 'after_token_mixer')))
    assert [site for site, _ in seen[:2]] == ['after_token_mixer', 'after_channel_mixer']
    assert seen[-1][1] == BlockInfo(dim=64, depth=2, index=1, stage=3, family='Swin', ffn_dim=256, embed_dim=8, patch_size=4)


class NoSites(Method):
    pass


BAD_ADAPTERS = [
    (dict(type='mmparax.AdaRute'), r"adapter.type='mmparax.AdaRute'.*mmparax.AdaRoute.*mmparax.Frozen"),
    (dict(type='SwinTransformer'), "adapter.type='SwinTransformer'"),
    (dict(type='mmparax.AdaRoute', hiden_dim=3), r"AdaRoute has no option 'hiden_dim'.*hidden_dim.*_delete_=True"),
    (dict(type='mmparax.Frozen', hidden_dim=3), r"Frozen has no option 'hidden_dim'.*none.*_delete_=True"),
    (dict(hidden_dim=3), r"adapter=\{'hidden_dim': 3\}"),
    ('mmparax.AdaRoute', "adapter='mmparax.AdaRoute'.*dict"),
    (dict(type='mmparax.AdaRoute', sites=('after_block', )), "cannot adapt Swin.*'after_block' does not exist.*after_token"),
    (dict(type=NoSites), 'NoSites cannot adapt Swin: it has no site'),
]


@pytest.mark.parametrize('adapter, message', BAD_ADAPTERS, ids=str)
def test_bad_adapters_are_named(adapter, message):
    with pytest.raises(ValueError, match=message):
        build(adapter)


def test_a_built_method_is_taken_as_it_is():
    method = Toy(sites=('after_token_mixer', ))
    assert build_method(method) is method


BAD_OPTIONS = [
    (dict(with_ccp=True), "AdaptedSwin has no option 'with_ccp'.*with_cp"),
    (dict(arch='huge'), "arch='huge'.*'tiny'.*'large'"),
    (dict(frozen_stages=2), 'frozen_stages=2.*Remove frozen_stages'),
    (dict(init_cfg=dict(type='Pretrained', checkpoint='x.pth')), "init_cfg=.*base_checkpoint='x.pth'"),
]


@pytest.mark.parametrize('options, message', BAD_OPTIONS, ids=str)
def test_bad_backbone_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build('adaroute', **options)


def test_adaroute_swin_refuses_an_adapter_and_knows_its_options():
    with pytest.raises(ValueError, match='adapter=.*AdaRouteSwin always has AdaRoute.*AdaptedSwin'):
        AdaRouteSwin(adapter=dict(type='mmparax.Frozen'), **TINY_SWIN)
    with pytest.raises(ValueError, match="AdaRouteSwin has no option 'hidden'.*hidden_dim.*with_cp"):
        AdaRouteSwin(hidden=3, **TINY_SWIN)


def test_a_changed_upstream_block_stops(monkeypatch):

    class NewBlock(SwinBlock):
        pass

    def stages_of_new_blocks(self):
        stages = [list(stage.blocks) for stage in self.stages]
        stages[1][0].__class__ = NewBlock
        return stages

    monkeypatch.setattr(AdaptedSwin, 'stage_blocks', stages_of_new_blocks)
    with pytest.raises(TypeError, match='SwinBlock.*found.*NewBlock.*requirements.txt'):
        AdaptedSwin(adapter=dict(type='mmparax.Frozen'), allow_random_base=True, **TINY_SWIN)


def test_a_changed_upstream_forward_stops(monkeypatch):
    monkeypatch.setattr(SwinBlock, 'forward', lambda self, x, hw_shape, rope: x)
    with pytest.raises(TypeError, match=r'forward\(x, hw_shape\).*forward\(x, hw_shape, rope\)'):
        AdaptedSwin(adapter=dict(type='mmparax.Frozen'), allow_random_base=True, **TINY_SWIN)
