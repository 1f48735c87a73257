"""The end of an adapter: 3x3 depthwise convolution, residual, layer scale, and the shortcut with a scale of its own.

Paper: AdaRoute, figure 3.
"""

from torch import Tensor

from mmparax.ops.reference.depthwise import convolve_depthwise
from mmparax.ops.token_maps import HW


def conv_scale_shortcut(y: Tensor, hw: HW, weight: Tensor, bias: Tensor, layer_scale: Tensor, layer_bias: Tensor,
                        shortcut: Tensor, shortcut_scale: Tensor | None, shortcut_bias: Tensor | None) -> Tensor:
    """:func:`mmparax.ops.functional.conv_scale_shortcut`, step by step."""
    y = layer_scale * (y + convolve_depthwise(y, hw, weight, bias)) + layer_bias
    if shortcut_scale is None:
        return y + shortcut
    return y + (shortcut_scale * shortcut + shortcut_bias)
