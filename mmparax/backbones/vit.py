"""Vision Transformer (Dosovitskiy et al., ICLR 2021) with sites, over mmpretrain's implementation."""
import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmengine.logging import print_log
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer, VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from mmparax.adapters.base import PROMPT_SITE, BlockInfo
from mmparax.backbones.adapted import AdaptedBackbone, AdaRouteOptions
from mmparax.backbones.block import AdaptedBlock, swap_class
from mmparax.errors import ParameterError
from mmparax.registry import MODELS
from mmparax.weights.layouts import convert_vit


class AdaptedEncoderLayer(AdaptedBlock, TransformerEncoderLayer):
    """mmpretrain's TransformerEncoderLayer with sites.

    A module at a stream site gets the patch tokens. The extra tokens before them (class, registers) pass by, unless the module
    treats each token by itself (``per_token``). Prompts stand between the two, attend to all tokens and are attended to, and
    are dropped after the attention (VPT-deep, Jia et al., ECCV 2022).

    Attributes:
        extra_tokens: how many tokens stand before the patches.
        hw: (H, W) of the patches; :class:`GridPatchEmbed` sets it for each input.
    """
    upstream = TransformerEncoderLayer
    forward_names = ('x', )
    branches = 2
    stream_sites = ('token_mixer_branch', 'after_token_mixer', 'channel_mixer_parallel', 'channel_mixer_branch',
                    'after_channel_mixer')
    linear_paths = {
        'linear:q': ('attn.qkv', 0),
        'linear:k': ('attn.qkv', 1),
        'linear:v': ('attn.qkv', 2),
        'linear:proj': ('attn.proj', None),
        'linear:fc1': ('ffn.layers.0.0', None),
        'linear:fc2': ('ffn.layers.1', None),
    }
    takes_prompts = True

    def forward(self, x: Tensor) -> Tensor:
        # The size goes in as an argument: another input may come before this one is recomputed.
        return self.run(self.forward_adapted, x, self.hw)

    def forward_adapted(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        x = x + self.adapt('token_mixer_branch', self.compute_attention_branch(x), hw)
        x = self.adapt('after_token_mixer', x, hw)
        if 'channel_mixer_branch' in self.adapters:
            y = x + self.adapt('channel_mixer_branch', self.ffn(self.ln2(x), identity=0), hw)
        else:
            y = self.ffn(self.ln2(x), identity=x)
        if 'channel_mixer_parallel' in self.adapters:
            count = self.count_passing_tokens('channel_mixer_parallel')
            y = y + F.pad(super().adapt('channel_mixer_parallel', x[:, count:], hw), (0, 0, count, 0))
        return self.adapt('after_channel_mixer', y, hw)

    def compute_attention_branch(self, x: Tensor) -> Tensor:
        """Return the attention branch of all tokens (B, N, C), with the block's prompts if it has any."""
        prompts = self.adapters[PROMPT_SITE]() if PROMPT_SITE in self.adapters else x[0, :0]
        if len(prompts) == 0:
            return self.attn(self.ln1(x))
        count, end = self.extra_tokens, self.extra_tokens + len(prompts)
        prompts = prompts.to(x.dtype).expand(len(x), -1, -1)
        y = self.attn(self.ln1(torch.cat([x[:, :count], prompts, x[:, count:]], dim=1)))
        return torch.cat([y[:, :count], y[:, end:]], dim=1)

    def adapt(self, site: str, x: Tensor, hw: tuple[int, int]) -> Tensor:
        if site not in self.adapters:
            return x
        count = self.count_passing_tokens(site)
        return torch.cat([x[:, :count], super().adapt(site, x[:, count:], hw)], dim=1) if count else super().adapt(site, x, hw)

    def count_passing_tokens(self, site: str) -> int:
        """Count the tokens before the patches that the module at ``site`` does not get."""
        return 0 if getattr(self.adapters[site], 'per_token', False) else self.extra_tokens


class GridPatchEmbed(PatchEmbed):
    """mmcv's PatchEmbed that tells the blocks how many rows and columns of patches an input has."""

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        x, hw = super().forward(x)
        for block in self._blocks[0]:
            block.hw = hw
        return x, hw


@MODELS.register_module()
class AdaptedViT(AdaptedBackbone, VisionTransformer):
    """A plain ViT with a frozen base and adapters; every other argument is that of mmpretrain's ``VisionTransformer``.

    The final norm is a part of the base. Inputs may have any size: the position table is interpolated.

    Args:
        adapter: config of a method such as ``dict(type='mmparax.AdaRoute')``; ``dict(type='mmparax.Frozen')`` for a
            frozen base; None for full fine-tuning.
        base_checkpoint: path or URL of the pre-trained weights (MAE's, timm's, DINOv2's, OpenMMLab's or a safetensors
            file). A position table of another size is interpolated.
        allow_random_base: permit a base without pre-trained weights.
        with_cp: recompute the activations of a block in the backward pass instead of keeping them.
    """
    family = 'ViT'
    upstream = VisionTransformer
    block_class = AdaptedEncoderLayer
    convert_base = staticmethod(convert_vit)
    signature = r'^pos_embed$'

    def __init__(self, *args: Any, with_cp: bool = False, **options: Any):
        super().__init__(*args, **options)
        swap_class(self.patch_embed, [PatchEmbed], GridPatchEmbed, ['x'])
        self.patch_embed._blocks = (self.layers, )  # a tuple: the blocks stay registered once
        for block in self.layers:
            block.with_cp, block.extra_tokens, block.hw = with_cp, self.num_extra_tokens, self.patch_resolution
            for module in block.modules():
                if isinstance(module, DropPath):  # a NumPy number there breaks a compiled graph
                    module.drop_prob = float(module.drop_prob)

    @classmethod
    def known_options(cls) -> list[str]:
        return super().known_options() + ['with_cp']

    def stage_blocks(self) -> list[list[nn.Module]]:
        return [list(self.layers)]

    def block_info(self, block: nn.Module, stage: int, index: int) -> BlockInfo:
        return BlockInfo(dim=self.embed_dims, depth=self.num_layers, index=index, stage=stage, family=self.family,
                         ffn_dim=self.arch_settings['feedforward_channels'], embed_dim=self.embed_dims,
                         patch_size=self.patch_embed.projection.kernel_size[0])

    def output_norms(self) -> list[str]:
        return ['ln2'] if self.out_type == 'avg_featmap' else []

    def output_channels(self) -> list[int] | None:
        return [self.embed_dims] * len(self.out_indices) if self.out_type == 'featmap' else None

    def _freeze_stages(self) -> None:
        if self.frozen_stages > 0:
            super()._freeze_stages()

    def fit_base(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out parts that this model lacks, and interpolate the position table (1, tokens, C) to its patches.

        Raises:
            ParameterError: for weights with register tokens, or a table that is no square of patches.
        """
        if 'register_tokens' in weights:
            raise ParameterError('base_checkpoint', self.base_checkpoint, "its model has register tokens, and mmpretrain's "
                                 'VisionTransformer has none', 'Give the file of the model without registers.')
        weights = {
            name: value for name, value in weights.items()
            if (name != 'cls_token' or self.cls_token is not None) and (self.final_norm or not name.startswith('ln1.'))
        }
        table = weights.get('pos_embed')
        if table is None or table.ndim != 3 or table.shape[-1] != self.embed_dims:
            return weights
        extra = table.shape[1] - math.isqrt(table.shape[1])**2  # a square of patches, or a class token before one
        side, grid = math.isqrt(table.shape[1] - extra), tuple(self.patch_resolution)
        square = extra in (0, 1) and extra >= self.num_extra_tokens
        if table.shape == self.pos_embed.shape and not square:
            return weights  # of a model with this grid
        if not square:
            raise ParameterError(
                'base_checkpoint', self.base_checkpoint, f'its position table has {table.shape[1]} entries, '
                f'which are not {self.num_extra_tokens} extra token(s) and a square of patches',
                'Its model has no class token: set with_cls_token=False.' if extra == 0 else 'Give a file with one.')
        table = table[:, extra - self.num_extra_tokens:]
        if (side, side) != grid:
            print_log(
                f'{type(self).__name__}: the position table of {self.base_checkpoint!r} was interpolated from '
                f'{side}x{side} to {grid[0]}x{grid[1]} patches.', logger='current', level=logging.INFO)
        table = resize_pos_embed(table, (side, side), grid, self.interpolate_mode, self.num_extra_tokens)
        return {**weights, 'pos_embed': table}

    def check_state(self, given: Mapping[str, Any]) -> None:
        self._check_table(given.get('pos_embed'))
        super().check_state(given)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._check_table(state_dict.get(prefix + 'pos_embed'))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _check_table(self, table: Tensor | None) -> None:
        if table is not None and table.shape != self.pos_embed.shape:
            raise ParameterError(
                'img_size', tuple(self.img_size), f'the checkpoint has a position table of {table.shape[1]} '
                f'entries and this model one of {self.pos_embed.shape[1]}', 'Set model.backbone.img_size to '
                'that of the checkpoint: inputs may have other sizes, the table is interpolated for each.')


@MODELS.register_module()
class AdaRouteViT(AdaRouteOptions, AdaptedViT):
    """:class:`AdaptedViT` with AdaRoute; the options of :class:`mmparax.adapters.AdaRoute` are its own.

    The defaults put two adapters into a block. Published counts of Table 4 are met by ``router_dim=24``; the public
    code has one adapter a block: ``adapter=dict(type='mmparax.AdaRoute', sites='after_channel_mixer')``.
    """
