"""AdaRoute: adapters whose weights are mixed, per input, from experts that the blocks of a stage share.

Paper: "Parameters as Experts: Adapting Vision Models with Dynamic Parameter Routing", section 3.2 and figures 2-4.
One file, three parts: the experts (:class:`ExpertCenter`), one adapter (:class:`AdaRouteAdapter`) and the method
(:class:`AdaRoute`), which puts one adapter after the token mixer and one after the channel mixer of every block.
"""
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmparax.adapters.base import BlockInfo, Method, init_linear
from mmparax.errors import ParameterError, check_choice, check_int, check_number
from mmparax.ops.functional import (
    LAYOUTS,
    conv_scale_shortcut,
    mix_expert_sets,
    mix_spatially,
    route,
    sample_linear,
    scaled_norm_conv,
)
from mmparax.ops.precision import find_product_dtype
from mmparax.ops.recompute import recompute_marked
from mmparax.registry import MODELS

EXPERT_INITS = {
    'trunc_normal': lambda tensor: nn.init.trunc_normal_(tensor, std=0.02),
    'kaiming_normal': nn.init.kaiming_normal_,
    'kaiming_uniform': nn.init.kaiming_uniform_,
}


def init_linear_or_conv(layer: nn.Module, kind: str) -> None:
    """Initialise a linear or conv layer as its backbone's family does; biases start at 0."""
    if kind == 'trunc_normal':
        nn.init.trunc_normal_(layer.weight, std=0.02)
    else:
        init_linear(layer.weight)
    nn.init.zeros_(layer.bias)


class ExpertCenter(nn.Module):
    """The experts that a group of blocks shares.

    Args:
        num_experts: M.
        dim: C, channels of the stage.
        hidden_dim: r, latent channels.
        kernel_sizes: sizes k_i of the dynamic depthwise kernels, one set of experts for each position.
        init: a key of ``EXPERT_INITS``.

    Parameters: ``down`` (M, r, C), ``up`` (M, C, r), ``kernels.i`` (M, r, 1, k_i, k_i).
    """

    def __init__(self, num_experts: int, dim: int, hidden_dim: int, kernel_sizes: Sequence[int], init: str):
        super().__init__()
        self.num_experts, self.init = num_experts, init
        self.down = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.up = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.kernels = nn.ParameterList(torch.empty(num_experts, hidden_dim, 1, k, k) for k in kernel_sizes)
        self.reset_parameters()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> 'ExpertCenter':
        """As any module; kernels go flat, for ``to(memory_format=torch.channels_last)`` refuses five axes."""
        return super()._apply(lambda tensor: fn(tensor.flatten(1)).view(tensor.shape)
                              if tensor.dim() == 5 else fn(tensor), recurse)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        for stack in self.parameters():
            for expert in stack:  # an expert at a time: the fan-in of the stack is not that of an expert
                EXPERT_INITS[self.init](expert)


class Router(nn.Module):
    """Two linear maps that turn the mean of a feature map into gates.

    Args:
        dim: C.
        router_dim: h, hidden channels.
        num_groups: G, groups of gates.
        num_experts: M, gates in a group.
        activation: ``'softmax'`` or ``'sigmoid'``.
    """

    def __init__(self, dim: int, router_dim: int, num_groups: int, num_experts: int, activation: str):
        super().__init__()
        self.num_experts, self.activation = num_experts, activation
        self.reduce = nn.Linear(dim, router_dim)
        self.gates = nn.Linear(router_dim, num_groups * num_experts)

    def forward(self, mean: Tensor) -> list[Tensor]:
        """Gates, G of (B, M), from the mean of a map's tokens (B, C)."""
        return route(mean, self.reduce, self.gates, self.num_experts, self.activation)


class AdaRouteAdapter(nn.Module):
    """One adapter (paper, figures 3 and 4). Options are those of :class:`AdaRoute`.

    Args:
        dim: C.
        center: the experts. It is shared, so the adapter does not register it: its parameters appear once, in the backbone.
        linear_init: initialisation of linear and conv layers, see :class:`BlockInfo`.
    """

    def __init__(self, dim: int, center: ExpertCenter, router_dim: int, spatial_aggregation: bool, conv_layout: str,
                 router_activation: str, layer_scale_init: float, shortcut_scale: bool, linear_init: str):
        super().__init__()
        hidden_dim, num_kernels = center.down.shape[1], len(center.kernels)
        self._center = (center, )
        self.conv_layout, self.layer_scale_init, self.linear_init = conv_layout, layer_scale_init, linear_init
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.norm_scale = nn.Parameter(torch.empty(dim))
        self.dwconv_in = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.router = Router(dim, router_dim, 2 + num_kernels, center.num_experts, router_activation)
        # A parameter exists only if the graph uses it, because one without a gradient stops DistributedDataParallel.
        mixes = {'sequential': 2, 'sequential_no_residual': 1, 'parallel': 0}[conv_layout] * max(num_kernels - 1, 0)
        self.stage_mix = nn.Parameter(torch.empty(mixes)) if mixes else None
        self.aggregation = nn.Linear(hidden_dim, num_kernels) if spatial_aggregation and num_kernels > 1 else None
        self.latent_proj = nn.Linear(hidden_dim, hidden_dim)
        self.dwconv_out = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.layer_scale = nn.Parameter(torch.empty(dim))
        self.layer_bias = nn.Parameter(torch.empty(dim))
        self.shortcut_scale = nn.Parameter(torch.empty(dim)) if shortcut_scale else None
        self.shortcut_bias = nn.Parameter(torch.empty(dim)) if shortcut_scale else None
        self.reset_parameters()

    @property
    def center(self) -> ExpertCenter:
        return self._center[0]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.norm.reset_parameters()
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                init_linear_or_conv(layer, self.linear_init)
        start = dict(norm_scale=1e-5, stage_mix=1., layer_scale=self.layer_scale_init, layer_bias=0., shortcut_scale=1.,
                     shortcut_bias=0.)
        for name, value in start.items():
            if getattr(self, name) is not None:
                nn.init.constant_(getattr(self, name), value)

    def forward(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """Adapt tokens (B, H*W, C) of a map of size ``hw`` = (H, W); the shape stays."""
        x = x.contiguous()  # once: the operations at both ends keep it for the backward
        dtype, center = find_product_dtype(x), self.center
        u, mean = self.start(x, hw)
        experts = [center.down, center.up] + list(center.kernels)  # torch.compile cannot unpack them
        down, up, *kernels = mix_expert_sets(self.router(mean), experts, dtype, x)
        with recompute_marked(x) as mark:
            u = mark(u.to(dtype), lambda: self.start(x, hw)[0].to(dtype))
            z = self.mix_spatially(sample_linear(u, down), hw, kernels)

            def project() -> Tensor:
                return z + self.latent_proj(z)

            projected = mark(project(), project)
            active = mark(F.gelu(projected), lambda: F.gelu(project()))
            y = mark(sample_linear(active, up), lambda: sample_linear(F.gelu(project()), up))
            return conv_scale_shortcut(y, hw, self.dwconv_out.weight, self.dwconv_out.bias, self.layer_scale, self.layer_bias, x,
                                       self.shortcut_scale, self.shortcut_bias)

    def start(self, x: Tensor, hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Tokens (B, H*W, C) after the scaled norm and the first convolution, and their mean (B, C)."""
        return scaled_norm_conv(x, hw, self.norm_scale, self.norm.weight, self.norm.bias, self.norm.eps, self.dwconv_in.weight,
                                self.dwconv_in.bias)

    def mix_spatially(self, z: Tensor, hw: tuple[int, int], kernels: Sequence[Tensor]) -> Tensor:
        """Mix latent tokens (B, H*W, r) with kernels of (B, r, 1, k_i, k_i), with a residual; the shape stays."""
        if not kernels:
            return 2 * z
        scorer = self.aggregation
        weights = (None, None) if scorer is None else (scorer.weight, scorer.bias)
        return mix_spatially(z, hw, kernels, self.stage_mix, self.conv_layout, *weights)


@MODELS.register_module()
class AdaRoute(Method):
    """AdaRoute, called ParaX in the published version: dynamic parameter routing from shared expert centers.

    Args:
        hidden_dim: latent width r (paper: 128; Table 5).
        experts_per_layer: experts of a center per block that shares it; M = floor(experts_per_layer * blocks) (Table 5).
        kernel_sizes: odd sizes of the dynamic depthwise convolutions, in order; () for none (Tables 7 and 11).
        router_dim: hidden width of the router. Published counts of Tables 1-3 are met by 16, of Table 4 by 24.
        layers_per_center: consecutive blocks that share a center; None: all blocks of a stage. A stage of at most this
            many blocks keeps one center, a deeper one must be divisible by it (Table 6).
        spatial_aggregation: weigh the convolutions' outputs at each position ("SA", Table 7); else their mean.
        conv_layout: ``'sequential'``, ``'sequential_no_residual'`` or ``'parallel'`` (Table 9).
        router_activation: ``'softmax'`` or ``'sigmoid'`` (Table 10).
        expert_init: ``'trunc_normal'``, ``'kaiming_normal'`` or ``'kaiming_uniform'`` (Table 8).
        layer_scale_init: start of the scale on the adapter's output.
        shortcut_scale: whether the shortcut has a learned scale and bias.
        sites: where to adapt; by default after the token mixer and after the channel mixer (one-branch blocks: after
            the block).

    Raises:
        ParameterError: for a wrong argument.
    """
    not_mergeable = 'its weights are mixed anew for each input, and it is not linear'
    two_branch_sites = ('after_token_mixer', 'after_channel_mixer')
    one_branch_sites = ('after_block', )

    def __init__(self, hidden_dim: int = 128, experts_per_layer: float = 1.0, kernel_sizes: Sequence[int] = (3, 5, 7),
                 router_dim: int = 16, layers_per_center: int | None = None, spatial_aggregation: bool = True,
                 conv_layout: str = 'sequential', router_activation: str = 'softmax', expert_init: str = 'trunc_normal',
                 layer_scale_init: float = 1.0, shortcut_scale: bool = True, sites: Sequence[str] | None = None):
        super().__init__(sites)
        self.hidden_dim = check_int('hidden_dim', hidden_dim)
        self.router_dim = check_int('router_dim', router_dim)
        self.kernel_sizes = self._check_kernel_sizes(kernel_sizes)
        self.experts_per_layer = check_number('experts_per_layer', experts_per_layer)
        if self.experts_per_layer <= 0:
            raise ParameterError('experts_per_layer', experts_per_layer, 'it must be a number above 0')
        self.layers_per_center = None if layers_per_center is None else check_int('layers_per_center', layers_per_center)
        self.expert_init = check_choice('expert_init', expert_init, tuple(EXPERT_INITS))
        self.adapter_options = dict(
            router_dim=router_dim, spatial_aggregation=check_choice('spatial_aggregation', spatial_aggregation, (True, False)),
            conv_layout=check_choice('conv_layout', conv_layout,
                                     LAYOUTS), router_activation=check_choice('router_activation', router_activation,
                                                                              ('softmax', 'sigmoid')),
            layer_scale_init=check_number('layer_scale_init',
                                          layer_scale_init), shortcut_scale=check_choice('shortcut_scale', shortcut_scale,
                                                                                         (True, False)))

    @staticmethod
    def _check_kernel_sizes(sizes: Any) -> tuple[int, ...]:
        allowed = 'it must be a sequence of odd integers of at least 1, such as (3, 5, 7), or () for no convolution'
        if isinstance(sizes, str) or not isinstance(sizes, Sequence):
            raise ParameterError('kernel_sizes', sizes, allowed)
        for size in sizes:
            if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % 2 == 0:
                raise ParameterError('kernel_sizes', tuple(sizes), allowed, f'{size!r} is not.')
        return tuple(sizes)

    def build_centers(self, blocks: Sequence[BlockInfo]) -> list[tuple[nn.Module, int]]:
        stage, depth, dim = blocks[0].stage, len(blocks), blocks[0].dim
        group = min(self.layers_per_center or depth, depth)
        if depth % group:
            raise ParameterError('layers_per_center', group, f'stage {stage} has {depth} blocks, which it does not divide',
                                 f'Use a divisor of {depth}, or at least {depth} for one center in this stage.')
        num_experts = math.floor(self.experts_per_layer * group + 1e-9)  # 0.29 * 100 is 28.999...
        if num_experts < 1:
            raise ParameterError('experts_per_layer', self.experts_per_layer, f'stage {stage} has {group} blocks a center, '
                                 'which gives no expert', f'Use at least {math.ceil(1000 / group) / 1000:g}.')
        return [(ExpertCenter(num_experts, dim, self.hidden_dim, self.kernel_sizes, self.expert_init), group)
                for _ in range(depth // group)]

    def build(self, site: str, block: BlockInfo, center: nn.Module) -> nn.Module:
        return AdaRouteAdapter(block.dim, center, linear_init=block.linear_init, **self.adapter_options)
