"""MiT, the encoder of SegFormer (Xie et al., NeurIPS 2021), with sites, over mmsegmentation's implementation."""

from mmseg.models.backbones.mit import MixVisionTransformer, TransformerEncoderLayer
from torch import Tensor, nn

from mmparax.adapters.base import BlockInfo
from mmparax.backbones.adapted import AdaptedBackbone, AdaRouteOptions
from mmparax.backbones.block import AdaptedBlock
from mmparax.registry import MODELS
from mmparax.weights.layouts import convert_mit


class AdaptedMiTBlock(AdaptedBlock, TransformerEncoderLayer):
    """mmsegmentation's TransformerEncoderLayer with sites.

    It offers no linear maps: query, key and value are one bare parameter of torch's attention, and the channel mixer
    consists of convolutions.
    """
    upstream = TransformerEncoderLayer
    forward_names = ('x', 'hw_shape')
    branches = 2
    stream_sites = ('token_mixer_branch', 'after_token_mixer', 'channel_mixer_parallel', 'channel_mixer_branch',
                    'after_channel_mixer')

    def forward(self, x: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return self.run(self.forward_adapted, x, hw_shape)

    def forward_adapted(self, x: Tensor, hw: tuple[int, int]) -> Tensor:
        x = self.mix('token_mixer_branch', self.attn, self.norm1, x, hw)
        x = self.adapt('after_token_mixer', x, hw)
        y = self.mix('channel_mixer_branch', self.ffn, self.norm2, x, hw)
        if 'channel_mixer_parallel' in self.adapters:
            y = y + self.adapt('channel_mixer_parallel', x, hw)
        return self.adapt('after_channel_mixer', y, hw)

    def mix(self, site: str, mixer: nn.Module, norm: nn.Module, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """Return the stream (B, N, C) after a mixer, which adds ``identity`` itself, behind its dropout and drop path."""
        if site in self.adapters:
            return x + self.adapt(site, mixer(norm(x), hw, identity=0), hw)
        return mixer(norm(x), hw, identity=x)


@MODELS.register_module()
class AdaptedMiT(AdaptedBackbone, MixVisionTransformer):
    """MiT with a frozen base and adapters; every other argument is that of mmsegmentation's ``MixVisionTransformer``.

    The norm after each stage is a part of the base, because the next stage reads its output.

    Args:
        adapter: config of a method such as ``dict(type='mmparax.AdaRoute')``; ``dict(type='mmparax.Frozen')`` for a
            frozen base; None for full fine-tuning.
        base_checkpoint: path or URL of the pre-trained weights (NVIDIA's, OpenMMLab's or a safetensors file).
        allow_random_base: permit a base without pre-trained weights.
    """
    family = 'MiT'
    upstream = MixVisionTransformer
    block_class = AdaptedMiTBlock
    convert_base = staticmethod(convert_mit)
    signature = r'^(patch_embed1\.proj|layers\.0\.0\.projection)\.'

    def stage_blocks(self) -> list[list[nn.Module]]:
        return [list(blocks) for _, blocks, _ in self.layers]

    def block_info(self, block: nn.Module, stage: int, index: int) -> BlockInfo:
        return BlockInfo(dim=block.ffn.embed_dims, depth=self.num_layers[stage], index=index, stage=stage, family=self.family,
                         ffn_dim=block.ffn.feedforward_channels, embed_dim=self.embed_dims * self.num_heads[0],
                         patch_size=self.patch_sizes[0])

    def output_norms(self) -> list[str]:
        return []

    def output_channels(self) -> list[int]:
        return [self.embed_dims * self.num_heads[i] for i in self.out_indices]

    def smallest_side(self) -> int:
        # From the last stage back to the image: what a patch embedding needs to give a map that the attention can reduce.
        side = 1
        for kernel, stride, ratio in list(zip(self.patch_sizes, self.strides, self.sr_ratios))[::-1]:
            side = max(1, (max(side, ratio) - 1) * stride + kernel - 2 * (kernel // 2))
        return side


@MODELS.register_module()
class AdaRouteMiT(AdaRouteOptions, AdaptedMiT):
    """:class:`AdaptedMiT` with AdaRoute; the options of :class:`mmparax.adapters.AdaRoute` are its own."""
