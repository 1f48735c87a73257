"""Whether the first step of a run gives every trainable parameter a finite gradient."""
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mmparax.errors import TrainingError


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
    """Check the gradients of a first step; exact zeros are normal (LoRA's A, a router with one expert).

    Args:
        found: the gradients.
        unused_allowed: whether parameters without a gradient are fine.

    Raises:
        TrainingError: naming the first parameter without a gradient, or whose gradient is not finite.
    """
    if found.missing and not unused_allowed:
        raise TrainingError(f'{found.missing[0]} got no gradient, and {len(found.missing) - 1} more of {found.count} trainable '
                            'parameters: they are not used in the forward pass and would stop a run on several processes. '
                            'Remove them, or freeze them with requires_grad=False.')
    if found.nonfinite:
        raise TrainingError(f'the first gradient of {found.nonfinite[0]} is not finite, and those of '
                            f'{len(found.nonfinite) - 1} more of {found.count} parameters: lower the learning rate, use bf16 or '
                            'no mixed precision, and look at the input.')


def watch_first_step(optimizer: torch.optim.Optimizer, model: nn.Module, report: Callable[[Gradients], None]) -> None:
    """Call ``report`` once, when the optimizer first takes a step: the gradients exist then, unscaled, and only then.

    It is not called for a step that the loss scaler rejects.
    """

    def report_first(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # A fused optimizer is also called for a rejected step and skips it by itself.
        rejected = getattr(optimizer, 'found_inf', None)
        if rejected is not None and bool(rejected.any()):
            return
        handle.remove()
        own = {id(parameter) for group in optimizer.param_groups for parameter in group['params']}
        report(sort_gradients((name, parameter) for name, parameter in model.named_parameters() if id(parameter) in own))

    handle = optimizer.register_step_pre_hook(report_first)
