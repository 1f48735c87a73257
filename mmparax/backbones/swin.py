"""Swin Transformer (Liu et al., ICCV 2021) with sites, over mmpretrain's implementation."""
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones.swin_transformer import SwinBlock, SwinTransformer
from mmpretrain.models.utils.attention import WindowMSA
from torch import Tensor, nn

from mmparax.adapters.base import PROMPT_SITE, BlockInfo
from mmparax.backbones.adapted import AdaptedBackbone, AdaRouteOptions
from mmparax.backbones.block import AdaptedBlock, AdapterHost, swap_class
from mmparax.backbones.swin_attention import use_efficient_attention
from mmparax.errors import check_choice
from mmparax.registry import MODELS
from mmparax.weights.layouts import convert_swin


class PromptedWindowMSA(AdapterHost, WindowMSA):
    """Window attention with extra tokens, the same in every window.

    The tokens pass the block's ``norm1``, see and are seen by the whole window with zero position bias and no shift
    mask, and are dropped afterwards (VPT-deep, Jia et al., ECCV 2022, for Swin).
    """

    def forward(self, x: Tensor, mask: Tensor = None) -> Tensor:
        """Attend within windows ``x`` (windows*B, N, C), ``mask`` (windows, N, N) or None; the shape stays."""
        norm, = self._norm
        prompts = self.adapters[PROMPT_SITE]()
        count = prompts.shape[0]
        if count == 0:
            return super().forward(x, mask)
        windows, tokens, channels = x.shape
        x = torch.cat([norm(prompts).to(x.dtype).expand(windows, -1, -1), x], dim=1)
        q, k, v = self.qkv(x).view(windows, count + tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = F.pad(bias.view(tokens, tokens, -1).permute(2, 0, 1), (count, 0, count, 0))
        attention = (q * self.scale) @ k.transpose(-2, -1) + bias
        if mask is not None:
            mask = F.pad(mask, (count, 0, count, 0))[None, :, None]
            attention = (attention.unflatten(0, (-1, mask.shape[1])) + mask).flatten(0, 1)
        attention = self.attn_drop(self.softmax(attention))
        x = (attention @ v).transpose(1, 2).reshape(windows, count + tokens, channels)
        return self.proj_drop(self.proj(x[:, count:]))


class AdaptedSwinBlock(AdaptedBlock, SwinBlock):
    """mmpretrain's SwinBlock with sites."""
    upstream = SwinBlock
    forward_names = ('x', 'hw_shape')
    branches = 2
    stream_sites = ('token_mixer_branch', 'after_token_mixer', 'channel_mixer_parallel', 'channel_mixer_branch',
                    'after_channel_mixer')
    linear_paths = {
        'linear:q': ('attn.w_msa.qkv', 0),
        'linear:k': ('attn.w_msa.qkv', 1),
        'linear:v': ('attn.w_msa.qkv', 2),
        'linear:proj': ('attn.w_msa.proj', None),
        'linear:fc1': ('ffn.layers.0.0', None),
        'linear:fc2': ('ffn.layers.1', None),
    }
    takes_prompts = True

    def fill_prompts(self, module: nn.Module) -> None:
        attention = self.attn.w_msa
        swap_class(attention, [WindowMSA], PromptedWindowMSA, ['x', 'mask'])
        attention.adapters = nn.ModuleDict({PROMPT_SITE: module})
        attention._norm = (self.norm1, )  # a tuple: the norm stays registered once, in the block

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return self.run(self.forward_adapted, x, hw_shape)

    def forward_adapted(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        x = self.adapt('token_mixer_branch', self.attn(self.norm1(x), hw), hw) + x
        x = self.adapt('after_token_mixer', x, hw)
        if 'channel_mixer_branch' in self.adapters:
            branch = self.ffn.dropout_layer(self.ffn.gamma2(self.ffn.layers(self.norm2(x))))
            y = x + self.adapt('channel_mixer_branch', branch, hw)
        else:
            y = self.ffn(self.norm2(x), identity=x)
        if 'channel_mixer_parallel' in self.adapters:
            y = y + self.adapt('channel_mixer_parallel', x, hw)
        return self.adapt('after_channel_mixer', y, hw)


@MODELS.register_module()
class AdaptedSwin(AdaptedBackbone, SwinTransformer):
    """Swin with a frozen base and adapters; every other argument is that of mmpretrain's ``SwinTransformer``.

    ``pad_small_map`` defaults to True when there is more than one output: only so is mmpretrain's Swin equal to
    mmdetection's and mmsegmentation's, and usable on maps smaller than a window.

    Args:
        adapter: config of a method such as ``dict(type='mmparax.AdaRoute')``; ``dict(type='mmparax.Frozen')`` for a
            frozen base; None for full fine-tuning.
        base_checkpoint: path or URL of the pre-trained weights (Microsoft's, OpenMMLab's or a safetensors file).
        allow_random_base: permit a base without pre-trained weights.
        efficient_attention: compute the attention of a frozen base without work on padding, and by
            ``scaled_dot_product_attention`` on a GPU (:mod:`mmparax.backbones.swin_attention`): equal up to rounding.
    """
    family = 'Swin'
    upstream = SwinTransformer
    block_class = AdaptedSwinBlock
    convert_base = staticmethod(convert_swin)
    signature = r'relative_position_bias_table$'

    def __init__(self, *args: Any, efficient_attention: bool = True, **options: Any):
        check_choice('efficient_attention', efficient_attention, (True, False))
        super().__init__(*args, **options)
        if efficient_attention and self.method is not None:
            for blocks in self.stage_blocks():
                for block in blocks:
                    use_efficient_attention(block)

    @classmethod
    def known_options(cls) -> list[str]:
        return super().known_options() + ['efficient_attention']

    @classmethod
    def upstream_defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        return dict(pad_small_map=len(options.get('out_indices', (3, ))) > 1)

    def stage_blocks(self) -> list[list[nn.Module]]:
        return [list(stage.blocks) for stage in self.stages]

    def block_info(self, block: nn.Module, stage: int, index: int) -> BlockInfo:
        return BlockInfo(dim=block.norm1.normalized_shape[0], depth=self.depths[stage], index=index, stage=stage,
                         family=self.family, ffn_dim=block.ffn.feedforward_channels, embed_dim=self.embed_dims,
                         patch_size=self.patch_embed.projection.kernel_size[0])

    def output_norms(self) -> list[str]:
        return [f'norm{i}' for i in self.out_indices]

    def output_channels(self) -> list[int]:
        return [self.num_features[i] for i in self.out_indices]

    def smallest_side(self) -> int:
        attention = self.stages[0].blocks[0].attn
        stride = self.patch_embed.projection.stride[0] * 2**(len(self.depths) - 1)
        return 1 if attention.pad_small_map else (attention.window_size - 1) * stride + 1


@MODELS.register_module()
class AdaRouteSwin(AdaRouteOptions, AdaptedSwin):
    """:class:`AdaptedSwin` with AdaRoute; the options of :class:`mmparax.adapters.AdaRoute` are its own."""
