"""Whether the parts of a model fit each other, the classes of the data and the device, seen before anything runs."""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from mmparax.backbones.adapted import AdaptedBackbone
from mmparax.errors import InputError, ParameterError

DETECTION_HEADS = ('rpn_head', 'bbox_head', 'mask_head', 'roi_head', 'semantic_head', 'panoptic_head')
SEGMENTATION_HEADS = ('decode_head', 'auxiliary_head')
CLASS_HEADS = (*SEGMENTATION_HEADS, 'head', 'bbox_head', 'mask_head', 'roi_head.bbox_head', 'roi_head.mask_head')
# Options that make a backbone give vectors, and the value with which it gives maps.
MAPS = {'gap_before_final_norm': False, 'out_type': 'featmap'}


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


def check_features(model: nn.Module) -> None:
    """Check that the backbone of a segmentor or detector gives the maps that its neck or heads take.

    Raises:
        ParameterError: naming the option with which it gives vectors, another number of maps or other channels.
    """
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, AdaptedBackbone) or not is_dense(model):
        return
    channels = backbone.output_channels()
    if channels is None:
        option = next((name for name in MAPS if hasattr(backbone, name)), 'type')
        value = getattr(backbone, option, type(backbone).__name__)
        raise ParameterError(f'model.backbone.{option}', value,
                             f'{type(model).__name__} needs feature maps, and this backbone gives vectors or tokens',
                             f'Use model.backbone.{option}={MAPS[option]!r}.' if option in MAPS else '')
    given = f'the backbone gives {len(channels)} map(s), of {channels} channels (out_indices={list(model.backbone.out_indices)})'
    neck = getattr(model, 'neck', None)
    if neck is not None:
        expected = getattr(neck, 'in_channels', None)
        # Some necks list their inputs from the smallest map on.
        if isinstance(expected, (list, tuple)) and list(expected) not in (channels, channels[::-1]):
            raise ParameterError('model.neck.in_channels', list(expected), given, 'Set one to what the other says.')
        _check_start_level(backbone, neck, channels)
        return
    for name, head in find_parts(model, SEGMENTATION_HEADS):
        if hasattr(head, 'in_index') and hasattr(head, 'in_channels'):
            _check_inputs(f'model.{name}', head, channels, given)


def _check_start_level(backbone: AdaptedBackbone, neck: nn.Module, channels: list[int]) -> None:
    """Raise ParameterError if a pyramid leaves out maps whose norms are trainable: they would get no gradient."""
    start = getattr(neck, 'start_level', 0)
    if not isinstance(start, int) or not 0 < start < len(channels) or list(neck.in_channels) != channels:
        return
    norms = backbone.output_norms()[:start]
    if any(parameter.requires_grad for name in norms for parameter in getattr(backbone, name).parameters()):
        raise ParameterError(
            'model.neck.start_level', start, f'the neck leaves out the first {start} map(s) of the backbone, whose output norms '
            'would get no gradient', f'Use model.backbone.out_indices={tuple(backbone.out_indices)[start:]}, '
            f'model.neck.in_channels={channels[start:]} and model.neck.start_level=0.')


def _check_inputs(name: str, head: nn.Module, channels: list[int], given: str) -> None:
    several = isinstance(head.in_index, (list, tuple))
    indices = list(head.in_index) if several else [head.in_index]
    if any(not -len(channels) <= index < len(channels) for index in indices):
        raise ParameterError(f'{name}.in_index', head.in_index, given, 'Change in_index, or model.backbone.out_indices.')
    widths: Any = [channels[index] for index in indices]
    if not several or getattr(head, 'input_transform', None) == 'resize_concat':
        widths = sum(widths)
    expected = list(head.in_channels) if isinstance(head.in_channels, (list, tuple)) else head.in_channels
    if expected != widths:
        raise ParameterError(f'{name}.in_channels', expected, given, f'With in_index={head.in_index} it must be {widths}.')


def check_class_counts(model: nn.Module, metainfo: Mapping[str, Any], place: str) -> None:
    """Check that the heads of a model are for as many classes as the data have.

    Args:
        model: a segmentor, detector or classifier.
        metainfo: that of the data set; without ``classes`` nothing is known.
        place: where the data set is in the config, for the errors.

    Raises:
        ParameterError: naming the option of a head with another number.
        InputError: if panoptic classes are in another order.
    """
    classes = metainfo.get('classes')
    if not classes or 'Depth' in type(model).__name__:  # depth has none; its data sets name those of their rooms
        return
    if getattr(model, 'language_model', None) is not None:  # its heads compare with words
        return
    things, stuff = metainfo.get('thing_classes'), metainfo.get('stuff_classes')
    panoptic = getattr(model, 'panoptic_fusion_head', None) is not None and things is not None and stuff is not None
    if panoptic:
        if list(classes) != [*things, *stuff]:
            raise InputError(f'{place}.metainfo.classes must be thing_classes, then stuff_classes, in their order: '
                             f'{type(model).__name__} tells the two apart by their numbers.')
        for name, head in find_parts(model, ('panoptic_fusion_head', 'semantic_head')):
            for option, kind in (('num_things_classes', things), ('num_stuff_classes', stuff)):
                _check_count(f'model.{name}.{option}', getattr(head, option, None), kind, place)
    for name, head in find_parts(model, CLASS_HEADS):
        _check_count(f'model.{name}.num_classes', getattr(head, 'num_classes', None), things if panoptic else classes, place)


def _check_count(parameter: str, count: int | None, classes: Sequence[str], place: str) -> None:
    if isinstance(count, int) and count != len(classes):
        names = ', '.join(map(str, classes[:3])) + (', ...' if len(classes) > 3 else '')
        raise ParameterError(parameter, count, f'{place} has {len(classes)} such classes ({names})',
                             f'Set it to {len(classes)}, or {place}.metainfo=dict(classes=...) to the classes of the model.')


def check_sync_norms(model: nn.Module) -> None:
    """Check that synchronised batch norm, which exists on GPUs only, is not asked to run on the CPU.

    Raises:
        InputError: naming the first such layer.
    """
    names = [name for name, module in model.named_modules() if 'SyncBatchNorm' in type(module).__name__]
    if names and not any(parameter.is_cuda for parameter in model.parameters()):
        raise InputError(f"{names[0]} is a synchronised batch norm, which needs GPUs, and the model is on the CPU, as are "
                         f"{len(names) - 1} more. Set norm_cfg=dict(type='BN') in the head, or train by "
                         'tools/dist_train.sh, which does so.')
