"""Random images and labels in the form in which each toolbox trains on them."""
from typing import Any

import torch
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmparax.checks.parts import CLASS_HEADS, DETECTION_HEADS, find_parts

OBJECTS = 3  # in an image


def make_random_batch(model: nn.Module, count: int) -> dict[str, Any] | None:
    """Make random images and labels that a segmentor, detector, panoptic model or classifier can take a training step on.

    Args:
        model: tells the task, the number of classes and, if it depends on it, the size of the images.
        count: number of images.

    Returns:
        What a dataloader would give, or None for a model of another kind.
    """
    if hasattr(model, 'decode_head'):
        make, size = _make_segmentation_sample, getattr(model.data_preprocessor, 'size', None) or (128, 128)
    elif any(hasattr(model, name) for name in DETECTION_HEADS):
        # Models that choose queries from the tokens of their maps need as many tokens.
        make, size = _make_detection_sample, (256, 256) if getattr(model, 'num_queries', 0) > 300 else (128, 128)
    elif hasattr(model, 'head'):
        # Windows of a backbone with a single output need maps of their size.
        make, size = _make_classification_sample, getattr(model.backbone, 'img_size', (224, 224))
    else:
        return None
    classes = _count_classes(model)
    if not classes:
        return None
    size = tuple(size)
    samples = [make(model, classes, size) for _ in range(count)]
    for sample in samples:
        sample.set_metainfo(dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1., 1.)))
    return dict(inputs=[torch.randint(256, (3, *size), dtype=torch.uint8) for _ in samples], data_samples=samples)


def _count_classes(model: nn.Module) -> int | None:
    """Number of classes that the images may have, for a detector those of things; None if the heads do not say it."""
    for _, head in find_parts(model, (*CLASS_HEADS, 'panoptic_head')):
        for option in ('num_classes', 'num_things_classes'):
            if hasattr(head, option):
                return getattr(head, option)
    return None


def _make_segmentation_sample(model: nn.Module, classes: int, size: tuple[int, int]) -> Any:
    from mmseg.structures import SegDataSample
    return SegDataSample(gt_sem_seg=PixelData(data=torch.randint(classes, (1, *size))))


def _make_detection_sample(model: nn.Module, classes: int, size: tuple[int, int]) -> Any:
    """Boxes that their objects fill; with a semantic head, a map of things and stuff."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    height, width = size
    corners = torch.rand(OBJECTS, 2) * 0.5
    boxes = torch.cat([corners, corners + 0.25 + torch.rand(OBJECTS, 2) * 0.25], 1) * torch.tensor([width, height] * 2)
    objects = InstanceData(bboxes=boxes, labels=torch.randint(classes, (OBJECTS, )))
    panoptic = getattr(model, 'panoptic_head', None)  # of MaskFormer and its kin, which learn masks
    if model.with_mask or panoptic is not None:
        y, x = torch.arange(height)[None, :, None], torch.arange(width)[None, None]
        left, top, right, bottom = (edge[:, None, None] for edge in boxes.unbind(1))
        inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
        objects.masks = BitmapMasks(inside.to(torch.uint8).numpy(), height, width)
    sample = DetDataSample(gt_instances=objects)
    semantic = getattr(model, 'semantic_head', panoptic)
    if semantic is not None:
        sample.gt_sem_seg = PixelData(sem_seg=torch.randint(classes + semantic.num_stuff_classes, (1, *size)))
    return sample


def _make_classification_sample(model: nn.Module, classes: int, size: tuple[int, int]) -> Any:
    from mmpretrain.structures import DataSample
    return DataSample().set_gt_label(int(torch.randint(classes, (1, ))))
