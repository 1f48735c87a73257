"""Whether an optimizer holds the trainable parameters, and groups them as the optimizer of a checkpoint does."""
import math
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmparax.errors import InputError, TrainingError
from mmparax.weights.matching import ALLOW_NONFINITE

START_AFRESH = 'It is damaged, or of another run; load_from starts from its weights alone.'


def list_optim_wrappers(wrapper: Any) -> list[OptimWrapper]:
    """The optimizer wrappers of an ``OptimWrapperDict``, or the one that is given."""
    parts = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [part for part in parts if isinstance(part, OptimWrapper)]


def check_optimizer(model: nn.Module, wrapper: Any) -> None:
    """Check that every trainable parameter is in an optimizer, once.

    Args:
        model: what the run trains.
        wrapper: an optimizer wrapper, or a dict of several.

    Raises:
        TrainingError: naming the first that is not.
    """
    places = Counter(
        id(parameter) for part in list_optim_wrappers(wrapper) for group in part.param_groups for parameter in group['params'])
    absent = [name for name, parameter in model.named_parameters() if parameter.requires_grad and places[id(parameter)] != 1]
    if absent:
        raise TrainingError(f'{absent[0]} is trainable, but is not in the optimizer exactly once, nor are {len(absent) - 1} '
                            'more: something changed the model or requires_grad after the optimizer was built.')


def check_parameter_groups(wrapper: Any, state: Mapping[str, Any]) -> None:
    """Check that the optimizer of a checkpoint groups its parameters as that of the run.

    Args:
        wrapper: of the run: an optimizer wrapper, or a dict of several.
        state: of the checkpoint.

    Raises:
        InputError: with both numbers of tensors and groups.
    """
    parts = [(part, state.get(name, {})) for name, part in wrapper.items()] if isinstance(wrapper, OptimWrapperDict) else \
        [(wrapper, state)]
    for part, saved in parts:
        theirs, ours = ([len(group['params']) for group in groups]
                        for groups in (saved.get('param_groups', []), part.optimizer.param_groups))
        if theirs and theirs != ours:
            raise InputError(
                f'the checkpoint cannot be resumed: its optimizer has {sum(theirs)} tensors in {len(theirs)} group(s), that of '
                f"this run {sum(ours)} in {len(ours)}. It was written with other settings, or with mmengine's constructor, "
                'which makes a group of every tensor; load_from starts from its weights alone.')
        check_state_values(part.optimizer, saved)


def check_state_values(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Check that the state of an optimizer in a checkpoint fits its parameters: kernels trust it.

    Args:
        optimizer: of the run.
        saved: what the checkpoint has of it.

    Raises:
        InputError: naming the first number and entry of another shape, kind or device than its parameter, with infinite values
            or NaN, or that shares its memory with another.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    order = [index for group in saved.get('param_groups', []) for index in group['params']]
    by_index = dict(zip(order, parameters))
    states, memories = saved.get('state', {}), set()
    strange = [index for index in states if index not in by_index]  # a tensor that never had a gradient has none
    if strange:
        raise InputError(
            f'the checkpoint cannot be resumed: its optimizer has a state for the tensor {strange[0]!r}, and there are '
            f'{len(order)}. {START_AFRESH}')
    names = {tuple(sorted(map(str, entry))) for entry in states.values()}
    if len(names) > 1:
        raise InputError(f'the checkpoint cannot be resumed: the states of its optimizer have different entries '
                         f'({", ".join(map(str, sorted(names)[0]))}; {", ".join(map(str, sorted(names)[1]))}). {START_AFRESH}')
    for index, entry in states.items():
        for name, value in entry.items():
            problem = _find_state_problem(name, value, by_index[index])
            if problem is None and isinstance(value, Tensor) and value.numel():
                address = value.data_ptr(), value.numel() * value.itemsize
                problem = 'shares its memory with another one' if address[0] in memories else None
                memories.add(address[0])
            if problem:
                raise InputError(f'the checkpoint cannot be resumed: state[{index}][{name!r}] of its optimizer {problem}. '
                                 f'{START_AFRESH}')


def _find_state_problem(name: str, value: Any, parameter: nn.Parameter) -> str | None:
    if not isinstance(value, Tensor):
        usable = value is None or isinstance(value, (bool, int, float)) and math.isfinite(value)
        return None if usable else f'is a {type(value).__name__}'
    if value.layout is not torch.strided or value.is_meta or value.is_complex() != parameter.is_complex():
        return 'holds no values of that kind'
    if value.numel() != 1 and value.shape != parameter.shape:
        return f'has the shape {tuple(value.shape)}, and its parameter {tuple(parameter.shape)}'
    if value.shape == parameter.shape and value.numel() > 1 and not value.is_floating_point():
        return f'is of the type {value.dtype}'
    if value.is_floating_point() and not torch.isfinite(value).all() and os.environ.get(ALLOW_NONFINITE) != '1':
        return 'holds infinite values or NaN'
    return None
