"""Backbones with sites, one family a file."""
from typing import TYPE_CHECKING

from mmparax.registry import MODELS
from mmparax.utils.toolboxes import find_obstacle, make_stand_in, require

require('mmcv', 'mmpretrain')

from mmparax.backbones.convnext import AdaptedConvNeXt, AdaRouteConvNeXt  # noqa: E402
from mmparax.backbones.swin import AdaptedSwin, AdaRouteSwin  # noqa: E402
from mmparax.backbones.vit import AdaptedViT, AdaRouteViT  # noqa: E402

if TYPE_CHECKING or find_obstacle('mmseg.models') is None:
    from mmparax.backbones.mit import AdaptedMiT, AdaRouteMiT
else:
    AdaptedMiT, AdaRouteMiT = (make_stand_in(name, 'mmseg.models') for name in ('AdaptedMiT', 'AdaRouteMiT'))
    for stand_in in (AdaptedMiT, AdaRouteMiT):
        MODELS.register_module(module=stand_in)

__all__ = [
    'AdaRouteConvNeXt', 'AdaRouteMiT', 'AdaRouteSwin', 'AdaRouteViT', 'AdaptedConvNeXt', 'AdaptedMiT', 'AdaptedSwin', 'AdaptedViT'
]
