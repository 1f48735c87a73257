"""Whether the parts of a model fit each other, the classes of the data and the device, seen before anything runs."""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from mmparax.checks.features import check_features
from mmparax.checks.parts import HEADS, PANOPTIC_HEADS, find_parts
from mmparax.errors import InputError, ParameterError

__all__ = ['check_class_counts', 'check_features', 'check_sync_norms']


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
    if panoptic and list(classes) != [*things, *stuff]:
        raise InputError(f'{place}.metainfo.classes must be thing_classes, then stuff_classes, in their order: '
                         f'{type(model).__name__} tells the two apart by their numbers.')
    if not panoptic:
        things, stuff = classes, ()
    if getattr(model, 'panoptic_fusion_head', None) is not None:
        for name, head in find_parts(model, PANOPTIC_HEADS):
            for option, kind in (('num_things_classes', things), ('num_stuff_classes', stuff)):
                _check_count(f'model.{name}.{option}', getattr(head, option, None), kind, place)
    for name, head in list_counting_parts(model):
        _check_count(f'model.{name}.num_classes', head.num_classes, things, place)


def list_counting_parts(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield (name, module) of the heads of a model, and of the losses in them, whose ``num_classes`` is that of the data.

    Others count something of their own: proposals (one kind of object), boundaries, the classes of a semantic branch, masks
    without a class; a panoptic head counts things and stuff apart.
    """
    for name, module in model.named_modules():
        top = name.split('.')[0]
        if not isinstance(getattr(module, 'num_classes', None), int) or top not in HEADS:
            continue
        own = top in ('rpn_head', *PANOPTIC_HEADS) or 'semantic_head' in name.split('.')
        if not own and not hasattr(module, 'boundary_threshold') and not getattr(module, 'class_agnostic', False):
            yield name, module


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
