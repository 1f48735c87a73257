"""ConvNeXt (Liu et al., CVPR 2022) and ConvNeXt V2 (Woo et al., CVPR 2023) with sites, over mmpretrain's implementation."""
from collections.abc import Mapping
from typing import Any

from mmpretrain.models.backbones.convnext import ConvNeXt, ConvNeXtBlock
from torch import Tensor, nn

from mmparax.adapters.base import BlockInfo
from mmparax.backbones.adapted import AdaptedBackbone, AdaRouteOptions
from mmparax.backbones.block import AdaptedBlock
from mmparax.ops.token_maps import map_to_tokens, tokens_to_map
from mmparax.registry import MODELS
from mmparax.weights.layouts import convert_convnext


class AdaptedConvNeXtBlock(AdaptedBlock, ConvNeXtBlock):
    """mmpretrain's ConvNeXtBlock with sites. The stream is a map (B, C, H, W); a site gets its tokens (B, H*W, C)."""
    upstream = ConvNeXtBlock
    forward_names = ('x', )
    branches = 1
    stream_sites = ('block_parallel', 'after_block')
    linear_paths = {'linear:fc1': ('pointwise_conv1', None), 'linear:fc2': ('pointwise_conv2', None)}

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.forward_adapted, x)

    def forward_adapted(self, x: Tensor) -> Tensor:
        y = x + self.drop_path(self.compute_branch(x))
        if 'block_parallel' in self.adapters:
            y = y + self.adapt_map('block_parallel', x)
        return self.adapt_map('after_block', y)

    def compute_branch(self, x: Tensor) -> Tensor:
        """Return the residual branch of a map (B, C, H, W), as upstream computes it."""
        x = self.depthwise_conv(x)
        layout = 'channel_last' if self.linear_pw_conv else 'channel_first'
        if self.linear_pw_conv:
            x = x.permute(0, 2, 3, 1)
        x = self.act(self.pointwise_conv1(self.norm(x, data_format=layout)))
        if self.grn is not None:
            x = self.grn(x, data_format=layout)
        x = self.pointwise_conv2(x)
        if self.linear_pw_conv:
            x = x.permute(0, 3, 1, 2)
        return x if self.gamma is None else x.mul(self.gamma.view(1, -1, 1, 1))

    def adapt_map(self, site: str, x: Tensor) -> Tensor:
        """As :meth:`adapt`, for a map (B, C, H, W).

        What an adapter returns lies channels-last in memory, and so does the stream from there on.
        """
        if site not in self.adapters:
            return x
        hw = x.shape[-2:]
        return tokens_to_map(self.adapt(site, map_to_tokens(x), hw), hw)


@MODELS.register_module()
class AdaptedConvNeXt(AdaptedBackbone, ConvNeXt):
    """ConvNeXt with a frozen base and adapters; every other argument is that of mmpretrain's ``ConvNeXt``.

    ``gap_before_final_norm`` defaults to False when there is more than one output: dense tasks need maps.

    Args:
        adapter: config of a method such as ``dict(type='mmparax.AdaRoute')``; ``dict(type='mmparax.Frozen')`` for a
            frozen base; None for full fine-tuning.
        base_checkpoint: path or URL of the pre-trained weights (Meta's, OpenMMLab's or a safetensors file).
        allow_random_base: permit a base without pre-trained weights.
    """
    family = 'ConvNeXt'
    upstream = ConvNeXt
    block_class = AdaptedConvNeXtBlock
    convert_base = staticmethod(convert_convnext)
    signature = r'^downsample_layers\.\d'
    no_frozen_stages = 0

    @classmethod
    def upstream_defaults(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        return dict(gap_before_final_norm=len(options.get('out_indices', (-1, ))) == 1)

    def stage_blocks(self) -> list[list[nn.Module]]:
        return [list(stage) for stage in self.stages]

    def block_info(self, block: nn.Module, stage: int, index: int) -> BlockInfo:
        return BlockInfo(dim=self.channels[stage], depth=self.depths[stage], index=index, stage=stage, family=self.family,
                         ffn_dim=block.pointwise_conv1.weight.shape[0], embed_dim=self.channels[0],
                         patch_size=self.downsample_layers[0][0].kernel_size[0], linear_init='trunc_normal')

    def output_norms(self) -> list[str]:
        return [f'norm{i}' for i in self.out_indices]

    def output_channels(self) -> list[int] | None:
        return None if self.gap_before_final_norm else [self.channels[i] for i in self.out_indices]

    def fit_base(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give pointwise convolutions the shape that they have here: linear maps or convolutions of one pixel."""
        own = dict(self.named_parameters())
        return {
            name: value.reshape(own[name].shape)
            if '.pointwise_conv' in name and name in own and value.numel() == own[name].numel() else value
            for name, value in weights.items()
        }

    def smallest_side(self) -> int:
        # Neither the stem nor the downsampling layers pad.
        return self.downsample_layers[0][0].kernel_size[0] * 2**(self.num_stages - 1)


@MODELS.register_module()
class AdaRouteConvNeXt(AdaRouteOptions, AdaptedConvNeXt):
    """:class:`AdaptedConvNeXt` with AdaRoute; the options of :class:`mmparax.adapters.AdaRoute` are its own."""
