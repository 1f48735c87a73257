"""Whether an optimizer holds the trainable parameters, and groups them as the optimizer of a checkpoint does."""
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from mmparax.errors import InputError, TrainingError


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
