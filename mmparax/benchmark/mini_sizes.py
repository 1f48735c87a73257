"""Sizes of the methods on the mini backbones: each has about as many trainable parameters as AdaRoute."""
from collections.abc import Mapping
from typing import Any

from mmparax.benchmark.parameter_counts import ParameterCounter, fit_width

WIDTH = 16  # AdaRoute's latent width
WIDTHS = dict(LoRA='rank', AdaptFormer='hidden_dim', LoRand='rank', Mona='hidden_dim')  # the options that are fitted
LORAND_BRANCHES = 2


def resize_adapter(counter: ParameterCounter, backbone: Mapping[str, Any],
                   adapter: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Give the adapter of a full-scale config the size that it has on a mini backbone.

    Args:
        counter: counts, and remembers.
        backbone: config of the mini backbone.
        adapter: config of the adapter at full scale; None for full fine-tuning.

    Returns:
        AdaRoute with its defaults and the latent width ``WIDTH``; the methods of ``WIDTHS`` with the width that comes nearest
        to AdaRoute's trainable parameters and their other options as they are; any other adapter unchanged.
    """
    if adapter is None:
        return None
    method, sized = adapter['type'].rpartition('.')[2], dict(adapter)
    adaroute = dict(type='mmparax.AdaRoute', hidden_dim=WIDTH)
    if method == 'AdaRoute':
        return adaroute
    if method == 'LoRand':
        sized['branches'] = LORAND_BRANCHES
    if method in WIDTHS:
        target = counter.count({**backbone, 'adapter': adaroute})
        sized[WIDTHS[method]] = fit_width(counter, backbone, sized, WIDTHS[method], target)
    return sized
