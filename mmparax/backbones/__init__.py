"""Backbones with sites, one family a file."""
from mmparax.toolboxes import require

require('mmcv', 'mmpretrain')

from mmparax.backbones.swin import AdaptedSwin, AdaRouteSwin  # noqa: E402

__all__ = ['AdaRouteSwin', 'AdaptedSwin']
