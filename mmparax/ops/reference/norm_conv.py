"""The start of an adapter: scaled layer norm, residual, 3x3 depthwise convolution, residual, and the mean for the router.

Paper: AdaRoute, figure 3, and section 3.2, "Dynamic Parameter Routing".
"""

import torch.nn.functional as F
from torch import Tensor

from mmparax.ops.precision import find_sum_dtype
from mmparax.ops.reference.depthwise import convolve_depthwise
from mmparax.ops.token_maps import HW


def scaled_norm_conv(x: Tensor, hw: HW, scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, weight: Tensor,
                     bias: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`mmparax.ops.functional.scaled_norm_conv`, step by step."""
    x = x + scale * F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    x = x + convolve_depthwise(x, hw, weight, bias)
    return x, x.mean(1, dtype=find_sum_dtype(x.dtype))
