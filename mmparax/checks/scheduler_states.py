"""The schedulers of a run: built as mmengine's runner builds them, and what of them goes into a checkpoint."""
import copy
import io
from collections.abc import Iterator, Mapping
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmparax.errors import InputError
from mmparax.utils.launch import use_amp
from mmparax.utils.text import get_first_line
from mmparax.weights.reader import read_torch


class _Loop(BaseLoop):
    """A loop that only says that there is one: schedulers then end with the run."""

    def __init__(self) -> None:
        pass

    def run(self) -> None:
        raise NotImplementedError


def build_wrapper(cfg: Mapping[str, Any], model: nn.Module, accumulate: bool = False) -> OptimWrapper:
    """Build the optimizer wrapper of a config, in single precision where there is no GPU.

    Args:
        cfg: of a run.
        model: whose parameters it is for.
        accumulate: whether it takes one step in several iterations, if the config says so.
    """
    holder = Config(dict(optim_wrapper=copy.deepcopy(cfg['optim_wrapper'])))
    use_amp(holder, None)
    if not accumulate:
        holder.optim_wrapper.pop('accumulative_counts', None)
    return build_optim_wrapper(model, holder.optim_wrapper)


def build_schedulers(cfg: Mapping[str, Any], wrapper: OptimWrapper, per_epoch: int) -> Any:
    """Build the schedulers of a config by the runner's own code, which gives them the end of the run and the length of an epoch.

    Args:
        cfg: of a run.
        wrapper: its optimizer wrapper, or a dict of several; building schedulers sets its first rates.
        per_epoch: iterations of an epoch.

    Returns:
        list or dict: schedulers, for several optimizers by their names; None if the config has none.
    """
    if cfg.get('param_scheduler') is None:
        return None
    train_cfg = cfg.get('train_cfg') or {}
    epochs = train_cfg.get('max_epochs', 1)  # a loop by iterations counts one
    runner = SimpleNamespace(optim_wrapper=wrapper, _train_loop=_Loop(), max_epochs=epochs, max_iters=train_cfg.get('max_iters')
                             or epochs * per_epoch, train_dataloader=range(per_epoch), logger=MMLogger.get_current_instance())
    runner._build_param_scheduler = MethodType(Runner._build_param_scheduler, runner)
    return Runner.build_param_scheduler(runner, cfg['param_scheduler'])


def list_schedulers(schedulers: Any) -> Iterator[tuple[str, Any]]:
    """Yield (place in the config, scheduler) of a list, of a dict of lists, or of None."""
    if isinstance(schedulers, Mapping):
        for owner, part in schedulers.items():
            yield from ((f'param_scheduler.{owner}.{number}', entry) for number, entry in enumerate(part))
    else:
        yield from ((f'param_scheduler.{number}', entry) for number, entry in enumerate(schedulers or ()))


def drop_functions(states: Any) -> Any:
    """The states of schedulers without the functions that some keep, such as the shape of the curve of OneCycleLR.

    Nothing is lost: a scheduler that a run is resumed with is built from the config, which chooses the function, and keeps its
    own. A file that is read without running code cannot hold any.

    Args:
        states: ``param_schedulers`` of a checkpoint: a list of state dicts, or a dict of lists.
    """
    if isinstance(states, Mapping):
        return {owner: drop_functions(part) for owner, part in states.items()}
    return [{name: value for name, value in state.items() if not callable(value)} for state in states]


def get_states(schedulers: Any) -> Any:
    """What a checkpoint holds of schedulers, in the form that mmengine gives it."""
    if isinstance(schedulers, Mapping):
        return {owner: get_states(part) for owner, part in schedulers.items()}
    return drop_functions([scheduler.state_dict() for scheduler in schedulers])


def load_states(schedulers: Any, states: Any) -> None:
    """Load what :func:`get_states` gave into other schedulers of the same config, as a resumed run does."""
    if isinstance(schedulers, Mapping):
        for owner, part in schedulers.items():
            load_states(part, states[owner])
    else:
        for scheduler, state in zip(schedulers, states):
            scheduler.load_state_dict(state)


def check_states(schedulers: Any) -> None:
    """Check that what a checkpoint will hold of schedulers can be read again.

    Args:
        schedulers: of a run, or None.

    Raises:
        InputError: naming the first whose state cannot.
    """
    for place, scheduler in list_schedulers(schedulers):
        reread([get_states([scheduler])], f'the state of {place} ({type(scheduler).__name__})')


def reread(content: Any, what: str) -> Any:
    """Write plain data and tensors to memory as a checkpoint, and read them again.

    Args:
        content: what is written.
        what: it is, for the error.

    Returns:
        What was read.

    Raises:
        InputError: if it cannot be written, or is refused.
    """
    file = io.BytesIO()
    try:
        torch.save(content, file)
        file.seek(0)
        return read_torch(file)
    except Exception as error:
        raise InputError(
            f'{what} cannot be resumed from: a checkpoint holds tensors and plain data alone ({get_first_line(error)}). Keep '
            'other objects out of it, or allow their class on purpose (torch.serialization.add_safe_globals).') from error
