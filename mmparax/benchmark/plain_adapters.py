"""AdaRoute and Mona written plainly, as fixed references for speed and memory.

The same functions with the same parameters as :mod:`mmparax.adapters`, in the layout of their papers' figures: tokens are
copied into contiguous maps (B, C, H, W) and back around every convolution, and each step is an operation of its own. They
use nothing of ``mmparax.ops``, so that they stay what they are when the adapters get faster.
"""
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmparax.adapters.adaroute import AdaRoute, AdaRouteAdapter
from mmparax.adapters.base import BlockInfo
from mmparax.adapters.mona import Mona, MonaAdapter


def to_map(x: Tensor, hw: tuple[int, int]) -> Tensor:
    """Copy tokens (B, H*W, C) into a contiguous map (B, C, H, W)."""
    return x.view(x.shape[0], hw[0], hw[1], x.shape[2]).permute(0, 3, 1, 2).contiguous()


def to_tokens(x: Tensor) -> Tensor:
    """Copy a map (B, C, H, W) into contiguous tokens (B, H*W, C)."""
    return x.flatten(2).transpose(1, 2).contiguous()


def mix(gate: Tensor, experts: Tensor) -> Tensor:
    """Sum of experts (M, ...) weighted by gates (B, M): (B, ...)."""
    return (gate @ experts.flatten(1)).view(-1, *experts.shape[1:])


def convolve_per_sample(x: Tensor, kernel: Tensor) -> Tensor:
    """Depthwise convolution of a map (B, r, H, W) with kernels (B, r, 1, k, k) of each sample, as B*r groups."""
    batch, channels, height, width = x.shape
    size = kernel.shape[-1]
    out = F.conv2d(x.reshape(1, batch * channels, height, width), kernel.reshape(batch * channels, 1, size, size),
                   padding=size // 2, groups=batch * channels)
    return out.view(batch, channels, height, width)


class PlainAdaRouteAdapter(AdaRouteAdapter):
    """An AdaRoute adapter, step by step as the paper's figures 3 and 4 show it."""

    def forward(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """Adapt tokens (B, H*W, C) of a map of size ``hw`` = (H, W); the shape stays."""
        shortcut = x.contiguous()
        x = self.norm(shortcut)
        x = self.norm_scale * x
        x = shortcut + x
        x = x + to_tokens(self.dwconv_in(to_map(x, hw)))
        down, up, *gates = self.compute_gates(x)
        center = self.center
        z = torch.bmm(x, mix(down, center.down).transpose(1, 2))
        kernels = [mix(gate, experts) for gate, experts in zip(gates, center.kernels)]
        z = z + self.mix_positions(z, hw, kernels)
        z = z + self.latent_proj(z)
        z = F.gelu(z)
        y = torch.bmm(z, mix(up, center.up).transpose(1, 2))
        y = y + to_tokens(self.dwconv_out(to_map(y, hw)))
        y = self.layer_scale * y
        y = y + self.layer_bias
        if self.shortcut_scale is not None:
            shortcut = self.shortcut_scale * shortcut
            shortcut = shortcut + self.shortcut_bias
        return y + shortcut

    def compute_gates(self, x: Tensor) -> Sequence[Tensor]:
        """Gates of each sample, G of (B, M)."""
        logits = self.router.gates(F.gelu(self.router.reduce(x.mean(1))))
        logits = logits.view(x.shape[0], -1, self.router.num_experts)
        return (logits.softmax(-1) if self.router.activation == 'softmax' else logits.sigmoid()).unbind(1)

    def mix_positions(self, z: Tensor, hw: tuple[int, int], kernels: list[Tensor]) -> Tensor:
        """The dynamic convolutions of latent tokens (B, H*W, r) and their sum, weighted at each position."""
        if not kernels:
            return z
        z = to_map(z, hw)
        maps: list[Tensor] = []
        for i, kernel in enumerate(kernels):
            source = z
            if i and self.conv_layout == 'sequential':
                source = self.stage_mix[2 * i - 2] * z + self.stage_mix[2 * i - 1] * maps[-1]
            elif i and self.conv_layout == 'sequential_no_residual':
                source = self.stage_mix[i - 1] * maps[-1]
            maps.append(convolve_per_sample(source, kernel))
        tokens = [to_tokens(y) for y in maps]
        if self.aggregation is None:
            return sum(tokens) / len(tokens)
        weights = self.aggregation(sum(tokens)).softmax(-1)
        return sum(weights[..., i:i + 1] * y for i, y in enumerate(tokens))


class PlainMonaAdapter(MonaAdapter):
    """A Mona adapter, step by step as its paper's section 3.3 writes it."""

    def forward(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """Adapt tokens (B, H*W, C) of a map of size ``hw`` = (H, W); the shape stays."""
        shortcut = x.contiguous()
        z = self.down(self.norm(shortcut) * self.norm_scale + shortcut * self.input_scale)
        z = to_map(z, hw)
        first, second, third = (conv(z) for conv in self.convs)
        z = z + (first + second + third) / 3
        z = z + self.projector(z)
        z = self.dropout(F.gelu(to_tokens(z)))
        return shortcut + self.up(z)


class PlainAdaRoute(AdaRoute):
    """:class:`mmparax.adapters.AdaRoute` with plain adapters; the options are its own."""

    def build(self, site: str, block: BlockInfo, center: nn.Module) -> nn.Module:
        return PlainAdaRouteAdapter(block.dim, center, linear_init=block.linear_init, **self.adapter_options)


class PlainMona(Mona):
    """:class:`mmparax.adapters.Mona` with plain adapters; the options are its own."""

    def build(self, site: str, block: BlockInfo, center: nn.Module | None) -> nn.Module:
        return PlainMonaAdapter(block.dim, self.hidden_dim, self.dropout)
