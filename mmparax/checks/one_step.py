"""One optimizer step as a run takes it, with what is judged at it."""
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmparax.checks.frozen import FrozenWatch
from mmparax.checks.gradients import SILENT_STEPS, FirstSteps, check_loss, describe_silent_heads, watch_first_step
from mmparax.checks.losses import check_input_size
from mmparax.checks.norms import NormWatch, count_images
from mmparax.checks.optimizer import list_optim_wrappers
from mmparax.errors import TrainingError
from mmparax.utils.text import summarize_names

FIRST_STEPS = 12 + SILENT_STEPS  # a dynamic loss scale starts high and is halved at every step that it rejects


@dataclass
class Step:
    """What a step showed.

    Attributes:
        text: about loss and gradients.
        notes: sentences about what learned nothing.
    """
    text: str
    notes: list[str]


def take_step(model: nn.Module, wrapper: Any, batches: Iterator[Any], norms: NormWatch, unused_allowed: bool) -> Step:
    """Take the first step that an optimizer accepts and in which something is learned.

    Args:
        model: on its device, in training mode.
        wrapper: its optimizer wrapper, or a dict of several.
        batches: of a dataloader, without an end.
        norms: watches the batch norm layers of the model; stopped at the end.
        unused_allowed: whether a trainable parameter may have no gradient.

    Raises:
        TrainingError: if none is accepted, nothing is learned, a gradient is absent or not finite, or the base changed.
        InputError: if the batches do not fit the model.
    """
    watch = FrozenWatch(model)
    judges = [(FirstSteps(unused_allowed), part) for part in list_optim_wrappers(wrapper)]
    for steps, part in judges:
        watch_first_step(part.optimizer, model, steps.judge)
    loss, previous, silent = 0., -1, 0
    try:
        for _ in range(FIRST_STEPS):
            silent = sum(steps.silent for steps, _ in judges)
            if silent != previous:  # else the loss scaler rejected the step, and the same batch comes again
                batch, previous = next(batches), silent
            norms.images = count_images(batch)
            check_input_size(model, batch)
            loss = check_loss(model.train_step(copy.deepcopy(batch), wrapper))
            if all(steps.found for steps, _ in judges):
                break
    finally:
        norms.stop()
    if not any(steps.found or steps.silent for steps, _ in judges):
        raise TrainingError(f'the loss scaler accepted none of {FIRST_STEPS} steps: use bf16')
    for steps, _ in judges:
        steps.check_end()
    if loss == 0:
        raise TrainingError('the loss is 0: nothing in these images counts in it. Look at the labels and ignore_index.')
    watch.check('by one step')
    watch.check_bytes(model)
    return _describe(model, loss, [steps.found for steps, _ in judges if steps.found is not None], silent)


def _describe(model: nn.Module, loss: float, found: list[Any], silent: int) -> Step:
    text = (f'loss {loss:.4f}, a finite gradient for each of {sum(part.count for part in found)} trainable parameters (nothing '
            'would break several processes), the frozen base unchanged')
    zero = [name for part in found for name in part.zero]
    if zero:
        text += f'; exactly zero, which some methods are at first: {summarize_names(zero)}'
    notes = [sentence for sentence in (describe_silent_heads(model, part) for part in found) if sentence]
    if silent:
        notes.append(f'{silent} batch(es) before it taught nothing: every gradient was exactly zero.')
    return Step(text, notes)
