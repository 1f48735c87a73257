"""The one table of methods and backbones that the shared behaviour tests run over, and the toy method of each site."""
import torch
from torch import nn

from mmparax.adapters import AdaRoute
from mmparax.adapters.base import LINEAR_SITES, PROMPT_SITE, STREAM_SITES, BlockInfo, Method, build_method
from mmparax.backbones import AdaptedConvNeXt, AdaptedMiT, AdaptedSwin, AdaptedViT

TINY_SWIN = dict(arch=dict(embed_dims=8, depths=[2, 2, 4, 2], num_heads=[1, 2, 4, 8]), out_indices=(0, 1, 2, 3),
                 drop_path_rate=0.)
TINY_CONVNEXT = dict(arch=dict(channels=[8, 16, 32, 64], depths=[2, 2, 4, 2]), out_indices=(0, 1, 2, 3), drop_path_rate=0.,
                     layer_scale_init_value=0.1)
TINY_VIT = dict(arch=dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32), img_size=48, patch_size=8,
                out_type='featmap', out_indices=(1, 3), drop_path_rate=0.)
TINY_MIT = dict(embed_dims=8, num_stages=2, num_layers=[2, 2], num_heads=[1, 2], patch_sizes=[7, 3], strides=[4, 2],
                sr_ratios=[4, 1], out_indices=(0, 1), drop_path_rate=0.)
# As few blocks as leave two in a stage, where experts are shared; for tests that build or train many models.
FEW_BLOCKS = dict(swin=dict(arch=dict(TINY_SWIN['arch'], depths=[1, 1, 2, 1])),
                  convnext=dict(arch=dict(TINY_CONVNEXT['arch'], depths=[1, 1, 2, 1])), vit={}, mit={})


class ToyStream(nn.Module):
    """A linear map on a stream or branch, zero at the start."""

    def __init__(self, dim, residual):
        super().__init__()
        self.residual, self.linear = residual, nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self):
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x, hw):
        assert x.shape[1] == hw[0] * hw[1]
        return self.linear(x) + x if self.residual else self.linear(x)


class ToyLinear(nn.Module):
    """A dense update of a frozen linear map, zero at the start."""

    def __init__(self, features):
        super().__init__()
        self.delta = nn.Parameter(torch.empty(features[1], features[0]))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.zeros_(self.delta)

    def forward(self, x, y):
        return y + nn.functional.linear(x, self.delta)

    def weight_update(self):
        return self.delta


class ToyPrompts(nn.Module):
    """Learned extra tokens."""

    def __init__(self, count, dim):
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(count, dim))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.tokens)

    def forward(self):
        return self.tokens


class Toy(Method):
    """Puts the simplest module of its kind at every site that it is given."""
    possible_sites = STREAM_SITES + LINEAR_SITES + (PROMPT_SITE, )
    two_branch_sites = ('after_channel_mixer', )
    one_branch_sites = ('after_block', )

    def __init__(self, sites=None, prompts=3):
        super().__init__(sites)
        self.prompts = prompts

    def build(self, site, block, center):
        if site in LINEAR_SITES:
            return ToyLinear(block.features(site))
        if site == PROMPT_SITE:
            return ToyPrompts(self.prompts, block.dim)
        return ToyStream(block.dim, residual='parallel' not in site)


def toy(*sites, **options):
    return dict(type=Toy, sites=sites, **options)


# id -> (config, whether an adapted backbone equals upstream at the start: bit by bit, up to rounding, or not)
METHODS = {
    'frozen': (dict(type='mmparax.Frozen'), True),
    'adaroute': (dict(type='mmparax.AdaRoute', hidden_dim=8, router_dim=6), False),
    'adaroute-no-kernels': (dict(type='mmparax.AdaRoute', hidden_dim=8, kernel_sizes=()), False),
    'adaroute-single': (dict(type='mmparax.AdaRoute', hidden_dim=8, kernel_sizes=(5, )), False),
    'adaroute-parallel': (dict(type='mmparax.AdaRoute', hidden_dim=8, conv_layout='parallel'), False),
    'adaroute-no-residual': (dict(type='mmparax.AdaRoute', hidden_dim=8, conv_layout='sequential_no_residual'), False),
    'adaroute-no-sa': (dict(type='mmparax.AdaRoute', hidden_dim=8, spatial_aggregation=False), False),
    'adaroute-sigmoid': (dict(type='mmparax.AdaRoute', hidden_dim=8, router_activation='sigmoid'), False),
    'adaroute-detection': (dict(type='mmparax.AdaRoute', hidden_dim=8, layer_scale_init=1e-5, shortcut_scale=False), False),
    'adaroute-groups': (dict(type='mmparax.AdaRoute', hidden_dim=8, layers_per_center=2), False),
    'adaroute-one-site': (dict(type='mmparax.AdaRoute', hidden_dim=8, sites=('after_channel_mixer', )), False),
    'vpt': (dict(type='mmparax.VPT', num_prompts=3), False),
    'lora': (dict(type='mmparax.LoRA', rank=4, dropout=0.1), True),
    'lora-ffn': (dict(type='mmparax.LoRA', rank=4, alpha=8, sites=('linear:fc1', 'linear:fc2')), True),
    'adaptformer': (dict(type='mmparax.AdaptFormer', hidden_dim=8), True),
    'lorand': (dict(type='mmparax.LoRand', branches=2, rank=3), False),
    'mona': (dict(type='mmparax.Mona', hidden_dim=8), False),
    'bitfit': (dict(type='mmparax.BitFit'), True),
    'norm-tuning': (dict(type='mmparax.NormTuning'), True),
    'toy-stream': (toy('after_token_mixer', 'after_channel_mixer'), True),
    'toy-branch': (toy('token_mixer_branch', 'channel_mixer_branch'), True),
    'toy-parallel': (toy('channel_mixer_parallel'), True),
    'toy-linear': (toy(*LINEAR_SITES), True),
    'toy-prompts': (toy(PROMPT_SITE), False),
    'toy-block': (toy('block_parallel', 'after_block'), 'rounding'),
    'toy-ffn': (toy('linear:fc1', 'linear:fc2'), True),
}

# Options with which a frozen base runs upstream's own operations, to compare with upstream bit by bit.
UPSTREAM_OPERATIONS = dict(swin=dict(efficient_attention=False), convnext={}, vit={}, mit={})

# id -> (class, options, input size)
BACKBONES = {
    'swin': (AdaptedSwin, TINY_SWIN, (40, 58)),
    'convnext': (AdaptedConvNeXt, TINY_CONVNEXT, (40, 58)),
    'vit': (AdaptedViT, TINY_VIT, (40, 58)),
    'mit': (AdaptedMiT, TINY_MIT, (40, 58)),
}


def fits(method, backbone):
    """Whether the blocks of a backbone have the sites of a method."""
    block = BACKBONES[backbone][0].block_class
    offered = (*block.stream_sites, *block.linear_paths, *[PROMPT_SITE] * block.takes_prompts)
    built = build_method(METHODS[method][0])
    return set(built.sites or (built.two_branch_sites if block.branches == 2 else built.one_branch_sites)) <= set(offered)


CASES = [(method, backbone) for backbone in BACKBONES for method in METHODS if fits(method, backbone)]


def build(method, backbone='swin', **options):
    """Build a small backbone on a random base with a method of the table (or None)."""
    cls, defaults, _ = BACKBONES[backbone]
    adapter = METHODS[method][0] if isinstance(method, str) and method in METHODS else method
    return cls(adapter=adapter, **{'allow_random_base': True, **defaults, **options})


def images(backbone='swin', batch=2, dtype=torch.float32, seed=0):
    height, width = BACKBONES[backbone][2]
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def block_info(dim=12, depth=3, **options):
    """What a method may know of a block of no family."""
    return BlockInfo(
        **
        {**dict(dim=dim, depth=depth, index=0, stage=0, family='Test', ffn_dim=4 * dim, embed_dim=dim, patch_size=4), **options})


def adapter_and_center(dim=12, experts=3, linear_init='kaiming_uniform', **options):
    """One adapter of AdaRoute and the experts that it mixes."""
    method = AdaRoute(**{**dict(hidden_dim=8, router_dim=6), **options})
    infos = [block_info(dim, experts, index=index, linear_init=linear_init) for index in range(experts)]
    center = method.build_centers(infos)[0][0]
    return method.build('after_token_mixer', infos[0], center), center


def perturb(*modules, seed=0):
    """Move every parameter away from its start, so that no term of a formula is neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (parameter for module in modules for parameter in module.parameters()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
