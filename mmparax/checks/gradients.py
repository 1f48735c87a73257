"""Whether the first steps of a run give every trainable parameter a finite gradient, and any of them one that is not zero."""
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmparax.checks.parts import CLASS_HEADS, DETECTION_HEADS, find_parts
from mmparax.errors import TrainingError
from mmparax.utils.names import make_prefix
from mmparax.utils.text import summarize_names

# A batch may hold nothing to learn from by chance (a crop of ignored pixels); so many in a row are no chance.
SILENT_STEPS = 5
OUTPUT_NORM = r'^backbone\.norm\d+\.(weight|bias)$'
OWNERS = tuple(dict.fromkeys((*CLASS_HEADS, *DETECTION_HEADS)))


@dataclass
class Gradients:
    """Names of trainable parameters by what their gradient is.

    Attributes:
        missing: without a gradient.
        nonfinite: with an infinity or NaN in it.
        zero: exactly zero everywhere.
        count: number of all trainable parameters, these and the others.
    """
    missing: list[str] = field(default_factory=list)
    nonfinite: list[str] = field(default_factory=list)
    zero: list[str] = field(default_factory=list)
    count: int = 0

    @property
    def are_silent(self) -> bool:
        """Whether no parameter learns anything."""
        return self.count == len(self.zero) + len(self.missing)


def sort_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> Gradients:
    """Sort the trainable ones of some (name, parameter) by their gradient."""
    found = Gradients()
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        found.count += 1
        if parameter.grad is None:
            found.missing.append(name)
        elif not torch.isfinite(parameter.grad).all():
            found.nonfinite.append(name)
        elif not parameter.grad.any():
            found.zero.append(name)
    return found


def check_gradients(found: Gradients, unused_allowed: bool = False) -> None:
    """Check the gradients of a first step; exact zeros of some are normal (LoRA's A, a router with one expert).

    Args:
        found: the gradients.
        unused_allowed: whether parameters without a gradient are fine.

    Raises:
        TrainingError: naming the first parameter without a gradient, or whose gradient is not finite.
    """
    if found.missing and not unused_allowed:
        of_outputs = all(re.search(OUTPUT_NORM, name) for name in found.missing)
        remedy = ('They belong to maps of the backbone that neither neck nor head takes: leave those out of '
                  'model.backbone.out_indices (and lower start_level of the neck, in_index of the heads, accordingly).'
                  ) if of_outputs else 'Remove them, or freeze them with requires_grad=False.'
        raise TrainingError(
            f'{found.missing[0]} got no gradient, and {len(found.missing) - 1} more of {found.count} trainable '
            f'parameters: they are not used in the forward pass and would stop a run on several processes. {remedy}')
    if found.nonfinite:
        raise TrainingError(f'the first gradient of {found.nonfinite[0]} is not finite, and those of '
                            f'{len(found.nonfinite) - 1} more of {found.count} parameters: lower the learning rate, use bf16 or '
                            'no mixed precision, and look at the input.')


class FirstSteps:
    """Judges the steps of an optimizer until one of them learns something.

    Args:
        unused_allowed: whether parameters without a gradient are fine.
        attempts: steps in a row that may learn nothing.
    """

    def __init__(self, unused_allowed: bool = False, attempts: int = SILENT_STEPS):
        self.unused_allowed, self.attempts = unused_allowed, attempts
        self.silent = 0  # steps so far that learned nothing
        self.found: Gradients | None = None  # of the step that did

    def judge(self, found: Gradients) -> bool:
        """Judge the gradients of the next step.

        Returns:
            Whether this step learned something; the others need not be looked at.

        Raises:
            TrainingError: for a gradient that is missing or not finite, or if none of the first steps learned anything.
        """
        check_gradients(found, self.unused_allowed)
        if not found.are_silent:
            self.found = found
            return True
        self.silent += 1
        if self.silent >= self.attempts:
            self.check_end()
        return False

    def check_end(self) -> None:
        """Check, when no more steps follow, that one of them learned something.

        Raises:
            TrainingError: if there were steps, and none did.
        """
        if self.found is None and self.silent:
            raise TrainingError(
                f'nothing is learned: in the first {self.silent} step(s) the gradient of every trainable parameter is exactly '
                'zero. No pixel, box or label of these images counts in the loss: look at the values of the masks, ignore_index, '
                'reduce_zero_label and iscrowd, and whether the head has more than one class.')


def check_loss(losses: Mapping[str, Any]) -> float:
    """Check the loss of a step.

    Args:
        losses: what ``train_step`` of a model returned; ``loss`` is the sum.

    Returns:
        The sum; 0 is not refused here, as a single batch may have nothing to learn from.

    Raises:
        TrainingError: if it is not finite.
    """
    values = [value for name, value in losses.items() if name == 'loss']
    loss = float(sum(value.item() if isinstance(value, Tensor) else float(value) for value in values))
    if loss != loss or loss in (float('inf'), float('-inf')):
        raise TrainingError(f'the loss of the first step is {loss}: lower the learning rate, and look at the images and labels.')
    return loss


def describe_silent_heads(model: nn.Module, found: Gradients) -> str | None:
    """Name the parts of the heads that learn nothing in a step, such as the one for boxes or masks.

    A part is what a head holds under one name. That single tensors in it have a zero gradient is normal: those before a layer
    that starts at zero.

    Args:
        model: a segmentor, detector or classifier.
        found: the gradients of the step.

    Returns:
        A sentence, or None.
    """
    zero, names = set(found.zero), [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    silent = []
    owners = sorted((name for name, _ in find_parts(model, OWNERS)), key=len, reverse=True)
    parts: dict[str, list[str]] = {}
    for name in names:
        owner = next((owner for owner in owners if name.startswith(make_prefix(owner))), None)
        if owner is not None:
            parts.setdefault(f'{owner}.{name.removeprefix(make_prefix(owner)).split(".")[0]}', []).append(name)
    silent = [part for part, members in parts.items() if zero.issuperset(members)]
    if not silent:
        return None
    return (
        f'{summarize_names(silent)} of the heads learned nothing: the gradient is exactly zero. These images hold nothing for '
        'them (no object, no mask, only crowds or ignored pixels), or their loss is switched off.')


def watch_first_step(optimizer: torch.optim.Optimizer, model: nn.Module, report: Callable[[Gradients], bool | None]) -> None:
    """Call ``report`` when the optimizer first takes a step: the gradients exist then, unscaled, and only then.

    It is not called for a step that the loss scaler rejects. It is called again for the next step as long as it returns False.
    """

    def report_first(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # A fused optimizer is also called for a rejected step and skips it by itself.
        rejected = getattr(optimizer, 'found_inf', None)
        if rejected is not None and bool(rejected.any()):
            return
        own = {id(parameter) for group in optimizer.param_groups for parameter in group['params']}
        found = sort_gradients((name, parameter) for name, parameter in model.named_parameters() if id(parameter) in own)
        if report(found) is not False:
            handle.remove()

    handle = optimizer.register_step_pre_hook(report_first)
