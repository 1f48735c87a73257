"""The form of a checkpoint: what every later step relies on, checked once, right after a file was read."""
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from mmengine.logging import HistoryBuffer
from torch import Tensor

from mmparax.errors import InputError
from mmparax.utils.text import describe_value

EXTRA_STATE = '_extra_state'  # ends the names under which modules of other libraries keep what is no tensor
Check = Callable[[Any, str], None]


class Misfit(Exception):
    """What is wrong, and where."""


def check_form(content: Any, source: str) -> None:
    """Check types and structure of a checkpoint; whether it fits a model is another question.

    Args:
        content: of a file: a state dict, or a dict with one under ``state_dict``.
        source: the file, for the error.

    Raises:
        InputError: naming the first part that is of another type than it must be.
    """
    try:
        _check_checkpoint(content)
    except Misfit as misfit:
        raise InputError(f'the checkpoint {source!r} is damaged, or no checkpoint of mmengine: {misfit}. Get it again, or give '
                         'another file.') from misfit


def _check_checkpoint(content: Any) -> None:
    _is(Mapping, 'names and values')(content, 'its content')
    if 'state_dict' not in content:
        return  # a bare state dict, or a base checkpoint, whose readers name what they do not find
    fields: dict[str, Check] = dict(state_dict=_check_weights, ema_state_dict=_check_weights, meta=_check_meta,
                                    message_hub=_check_message_hub, optimizer=_check_optimizer,
                                    param_schedulers=_check_schedulers, resume_state=_check_resume_state)
    for name, check in fields.items():
        if name in content:
            check(content[name], name)


# ---- what a value is ----


def _is(kind: Any, what: str, optional: bool = False) -> Check:

    def check(value: Any, place: str) -> None:
        if optional and value is None:
            return
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Misfit(f'{place} is {describe_value(value)}, and must be {what}')

    return check


TEXT, NUMBER = _is(str, 'a text'), _is(Real, 'a number')
NAMES = _is(Mapping, 'names and values')
LIST = _is((list, tuple), 'a list')
FLAG = _is(bool, 'True or False')


def _check_count(value: Any, place: str) -> None:
    if type(value) is not int or value < 0:
        raise Misfit(f'{place} is {describe_value(value)}, and must be a number from 0 on')


def _check_keys(value: Any, place: str, kind: Check = TEXT) -> None:
    NAMES(value, place)
    for name in value:
        kind(name, f'a name in {place}')


def _check_fields(value: Mapping[str, Any], place: str, fields: Mapping[str, Check]) -> None:
    _check_keys(value, place)
    for name, check in fields.items():
        if name in value:
            check(value[name], f'{place}.{name}')


# ---- the parts ----


def _check_weights(value: Any, place: str) -> None:
    _check_keys(value, place)
    for name, tensor in value.items():
        if not isinstance(tensor, Tensor) and not name.endswith(EXTRA_STATE) and (place, name) != ('ema_state_dict', 'steps'):
            raise Misfit(f'{place}[{name!r}] is {describe_value(tensor)}, and must be a tensor')
    for module, entry in (getattr(value, '_metadata', None) or {}).items():
        if 'version' in entry and entry['version'] is not None:
            _check_count(entry['version'], f'the version of {module!r} in {place}')


def _check_classes(value: Any, place: str) -> None:
    if value is not None:
        LIST(value, place)
        for name in value:
            TEXT(name, f'an entry of {place}')


def _check_dataset_meta(value: Any, place: str) -> None:
    if value is not None:
        _check_keys(value, place)
        _check_fields(value, place, dict(classes=_check_classes, CLASSES=_check_classes))


def _check_backbones(value: Any, place: str) -> None:
    _check_keys(value, place)
    for name, entry in value.items():
        here = f'{place}[{name!r}]'
        _check_fields(
            entry, here,
            dict(type=TEXT, family=TEXT, options=_check_keys, adapter=_check_adapter, base_checkpoint=_is(str, 'a text', True)))


def _check_adapter(value: Any, place: str) -> None:
    if value is not None:
        _check_keys(value, place)
        if 'type' not in value:
            raise Misfit(f'{place} has no type')
        TEXT(value['type'], f'{place}.type')


def _check_own(value: Any, place: str) -> None:
    if value is not None:
        _check_fields(value, place,
                      dict(version=TEXT, fingerprint=_is(str, 'a text', True), head_included=FLAG, backbones=_check_backbones))


def _check_meta(value: Any, place: str) -> None:
    if value is not None:
        _check_fields(
            value, place,
            dict(epoch=_check_count, iter=_check_count, cfg=_is((str, Mapping), 'a text'), mmparax=_check_own,
                 dataset_meta=_check_dataset_meta, CLASSES=_check_classes, hook_msgs=NAMES))


def _check_message_hub(value: Any, place: str) -> None:
    if value is None:
        return
    _check_fields(value, place, dict(log_scalars=_check_keys, runtime_info=_check_keys, resumed_keys=_check_keys))
    for name, history in (value.get('log_scalars') or {}).items():
        _is(HistoryBuffer, 'a history of values')(history, f'{place}.log_scalars[{name!r}]')
    for name, flag in (value.get('resumed_keys') or {}).items():
        FLAG(flag, f'{place}.resumed_keys[{name!r}]')


def _check_groups(value: Any, place: str) -> None:
    LIST(value, place)
    for number, group in enumerate(value):
        here = f'{place}[{number}]'
        _check_keys(group, here)
        LIST(group.get('params'), f'{here}.params')
        for index in group['params']:
            _check_count(index, f'an entry of {here}.params')
        for option in ('lr', 'initial_lr', 'weight_decay', 'eps'):
            if option in group and not isinstance(group[option], Tensor):
                NUMBER(group[option], f'{here}.{option}')


def _check_state(value: Any, place: str) -> None:
    NAMES(value, place)
    for index, entry in value.items():
        _check_count(index, f'a number in {place}')
        _check_keys(entry, f'{place}[{index}]')


def _check_optimizer(value: Any, place: str) -> None:
    _check_keys(value, place)
    if 'param_groups' not in value and all(isinstance(part, Mapping) for part in value.values()) and 'state' not in value:
        for name, part in value.items():  # several optimizers
            _check_optimizer_part(part, f'{place}[{name!r}]')
    else:
        _check_optimizer_part(value, place)


def _check_optimizer_part(value: Any, place: str) -> None:
    _check_fields(value, place, dict(state=_check_state, param_groups=_check_groups, loss_scaler=NAMES))


def _check_schedulers(value: Any, place: str) -> None:
    parts = list(value.values()) if isinstance(value, Mapping) else [value]
    for part in parts:
        LIST(part, place)
        for number, scheduler in enumerate(part):
            here = f'{place}[{number}]'
            _check_keys(scheduler, here)
            for name in ('last_step', '_global_step', 'begin', 'end', 'total_iters'):
                if name in scheduler:
                    NUMBER(scheduler[name], f'{here}.{name}')


def _check_resume_state(value: Any, place: str) -> None:
    if value is None:
        return
    LIST(value, place)
    for number, state in enumerate(value):
        here = f'{place}[{number}]'
        _check_fields(state, here, dict(generators=_check_keys, gradients=_check_weights))
        absent = [name for name in ('generators', 'seed', 'sampler_seed', 'gradients') if name not in state]
        if absent:
            raise Misfit(f'{here} has no {", ".join(absent)}')
