"""The heads of a model, by the names that the toolboxes give them."""
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

DETECTION_HEADS = ('rpn_head', 'bbox_head', 'mask_head', 'roi_head', 'semantic_head', 'panoptic_head')
SEGMENTATION_HEADS = ('decode_head', 'auxiliary_head')
CLASS_HEADS = (*SEGMENTATION_HEADS, 'head', 'bbox_head', 'mask_head', 'roi_head.bbox_head', 'roi_head.mask_head')
PANOPTIC_HEADS = ('panoptic_head', 'panoptic_fusion_head', 'semantic_head')
HEADS = (*SEGMENTATION_HEADS, *DETECTION_HEADS, 'panoptic_fusion_head', 'head')  # attributes of a model


def is_dense(model: nn.Module) -> bool:
    """Whether a model segments or detects, and so needs feature maps."""
    return any(getattr(model, name, None) is not None for name in DETECTION_HEADS + SEGMENTATION_HEADS)


def find_parts(model: nn.Module, paths: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of those of ``paths`` that a model has; each module of a list by itself."""
    for path in paths:
        part: Any = model
        for name in path.split('.'):
            part = getattr(part, name, None)
        if isinstance(part, nn.ModuleList):
            yield from ((f'{path}.{number}', entry) for number, entry in enumerate(part))
        elif isinstance(part, nn.Module):
            yield path, part
