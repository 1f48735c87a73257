"""Whether the losses of a model count what its data hold: weights of classes, ignored values, the size of a crop."""
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmparax.checks.parts import SEGMENTATION_HEADS, find_parts
from mmparax.config.query import find_datasets, walk_transforms
from mmparax.errors import ParameterError
from mmparax.utils.names import join_name

UNWEIGHTED = ('mask_head', 'mask_iou_head', 'semantic_head', 'rpn_head')  # heads whose losses weigh something else


def check_losses(model: nn.Module, cfg: Config) -> None:
    """Check the heads of a model against their losses and against the data of a config.

    Raises:
        ParameterError: naming the option that does not fit.
    """
    check_one_class(model)
    check_class_weights(model)
    check_ignored_values(model, cfg)
    check_crop(model, cfg)


def check_one_class(model: nn.Module) -> None:
    """Check that no head of a segmentor tells a single class apart from nothing."""
    for name, head in find_parts(model, SEGMENTATION_HEADS):
        if getattr(head, 'num_classes', None) == 1 and hasattr(head, 'conv_seg'):
            raise ParameterError(
                f'model.{name}.num_classes', 1,
                'a segmentation needs two classes, the object and the background: with a single one '
                'there is nothing to tell apart, and the loss is 0 or fails', "Set num_classes=2 and metainfo=dict(classes=("
                "'background', 'object')); with use_sigmoid=True also out_channels=1.")


# ---- weights of classes ----


def check_class_weights(model: nn.Module) -> None:
    """Check that lists of weights of classes have an entry for each output of their head."""
    modules = dict(model.named_modules())
    for name, module in modules.items():
        weights = getattr(module, 'class_weight', None)
        count = len(weights) if isinstance(weights, (Sequence, torch.Tensor)) and not isinstance(weights, str) else None
        owner = _find_owner(modules, name)
        if count is None or owner is None or set(owner.split('.')) & set(UNWEIGHTED):
            continue
        head = modules[owner]
        place = f'model.{name if module is not head else join_name(name, "loss_cls")}.class_weight'
        expected, reason = _count_weights(head, module)
        if expected is not None and expected != count:
            raise ParameterError(place, _as_list(weights), f'this head needs {expected} numbers, not {count}: {reason}',
                                 'Give a weight for each of them, in the order of metainfo.classes, or leave class_weight out.')


def _as_list(weights: Any) -> list[float]:
    return weights.tolist() if isinstance(weights, torch.Tensor) else list(weights)


def _find_owner(modules: Mapping[str, nn.Module], name: str) -> str | None:
    """The nearest module at or above ``name`` that counts classes."""
    while name:
        if isinstance(getattr(modules[name], 'num_classes', None), int):
            return name
        name = name.rpartition('.')[0]
    return None


def _count_weights(head: Any, loss: Any) -> tuple[int | None, str]:
    classes = head.num_classes
    if hasattr(head, 'cls_embed') or hasattr(head, 'num_queries'):
        return classes + 1, f"{classes} classes and 'no object'"
    if type(head).__module__.startswith('mmdet.') and not getattr(loss, 'use_sigmoid', True):
        return classes + 1, f'{classes} classes and the background'
    if getattr(head, 'out_channels', classes) != classes:  # one output for two classes
        return None, ''
    return classes, f'one for each of {classes} classes'


# ---- values and sizes ----


def check_ignored_values(model: nn.Module, cfg: Mapping[str, Any]) -> None:
    """Check that data, padding and loss ignore the same value of a mask."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    for name, head in find_parts(model, SEGMENTATION_HEADS):
        ignored = getattr(head, 'ignore_index', None)
        if not isinstance(ignored, int):
            continue
        for dataset in find_datasets(cfg.get('train_dataloader')):
            own = dataset.get('ignore_index')
            if own is not None and own != ignored:
                raise ParameterError(
                    f'model.{name}.ignore_index', ignored,
                    f'train_dataloader.dataset.ignore_index={own}, so pixels that the data '
                    'ignore would count in the loss', 'Set both to the value that means "ignored".')
        _check_padding('seg_pad_val', preprocessor, f'model.{name}.ignore_index', ignored, head)
    for name, head in find_parts(model, ('semantic_head', )):
        ignored = getattr(getattr(head, 'loss_seg', None), 'ignore_index', None)
        if getattr(preprocessor, 'pad_seg', False):
            _check_padding('seg_pad_value', preprocessor, f'model.{name}.loss_seg.ignore_index', ignored, head)


def _check_padding(option: str, preprocessor: Any, place: str, ignored: int | None, head: Any) -> None:
    value = getattr(preprocessor, option, None)
    if isinstance(value, int) and value != ignored and not 0 <= value < head.num_classes:
        raise ParameterError(
            f'model.data_preprocessor.{option}', value, f'{place}={ignored}, and the head has {head.num_classes} '
            'classes: the padding would be a class that does not exist', f'Set it to the value of {place}.')


def check_crop(model: nn.Module, cfg: Mapping[str, Any]) -> None:
    """Check that crops are not larger than the size to which a data preprocessor pads them."""
    size = getattr(getattr(model, 'data_preprocessor', None), 'size', None)
    if not isinstance(size, Sequence) or len(size) != 2:
        return
    for dataset in find_datasets(cfg.get('train_dataloader')):
        for crop in find_crops(dataset.get('pipeline') or []):
            if crop[0] > size[0] or crop[1] > size[1]:
                _refuse_size(size, f'train_dataloader.dataset.pipeline crops to {crop[0]}x{crop[1]}', crop)


def find_crops(pipeline: Sequence[Any]) -> list[tuple[int, int]]:
    """The sizes (height, width) to which a pipeline crops, those inside of choices, too."""
    found: list[tuple[int, int]] = []
    for step in walk_transforms(pipeline):
        crop = step.get('crop_size')
        if isinstance(crop, int):
            crop = (crop, crop)
        if isinstance(crop, Sequence) and len(crop) == 2 and all(isinstance(side, int) for side in crop) \
                and step.get('crop_type', 'absolute') == 'absolute':
            found.append((crop[0], crop[1]))
    return found


def check_input_size(model: nn.Module, batch: Any) -> None:
    """Check that the images of a batch are not larger than the size to which a data preprocessor pads them."""
    size = getattr(getattr(model, 'data_preprocessor', None), 'size', None)
    inputs = batch.get('inputs') if isinstance(batch, Mapping) else None
    if not isinstance(size, Sequence) or len(size) != 2 or not isinstance(inputs, (list, tuple, torch.Tensor)):
        return
    for image in inputs:
        height, width = image.shape[-2:]
        if height > size[0] or width > size[1]:
            _refuse_size(size, f'a training image arrives with {height}x{width}', (height, width))


def _refuse_size(size: Sequence[int], what: str, needed: Sequence[int]) -> None:
    raise ParameterError('model.data_preprocessor.size', tuple(size),
                         f'{what} (height x width) pixels, which padding to this size cannot make equal',
                         f'Set it to the size of the crop, {tuple(needed)}, and crop before the last step of the pipeline.')
