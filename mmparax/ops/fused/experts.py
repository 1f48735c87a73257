"""Mixing the experts of a center, with the gradients of all adapters of a forward pass summed at once.

An adapter's gradient of the experts is an outer product, gates x gradient of the mixed matrix, as large as all experts
together: written and added to the others' it is a quarter of the time of a small adapter. Inside
:func:`sum_expert_gradients_once` adapters only record the two factors, and one matrix product for all of them follows when the
last one is done.
"""
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmparax.ops.autograd import make_backward
from mmparax.ops.internals import get_backward_id
from mmparax.ops.precision import disable_autocast
from mmparax.ops.reference.experts import mix_experts


class GradientFactors:
    """Gates and gradients of mixed experts, recorded in a backward pass.

    They are kept by the number of the pass: a pass for other inputs alone never reaches the experts, and another may follow on
    the same graph.
    """

    def __init__(self) -> None:
        self._of_pass: dict[int | None, list[tuple[Sequence[Tensor], Sequence[Tensor]]]] = {}

    def add(self, gates: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        self._of_pass.setdefault(get_backward_id(), []).append((gates, grads))

    def take(self) -> list[tuple[Sequence[Tensor], Sequence[Tensor]]]:
        return self._of_pass.pop(get_backward_id(), [])


class SharedExperts(NamedTuple):
    """The experts of a center in one forward pass: aliases, through which no gradient flows, and what is recorded for them."""
    experts: tuple[Tensor, ...]
    factors: GradientFactors


_open = threading.local()


def sum_expert_gradients_once(forward: Callable) -> Callable:
    """A backbone's ``forward``: the gradients of experts that are mixed inside are summed at once."""

    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # the reference mixes
            return forward(*args, **kwargs)
        before, _open.shared = getattr(_open, 'shared', None), {}
        try:
            return forward(*args, **kwargs)
        finally:
            _open.shared = before

    return call


def mix_expert_sets(gates: Sequence[Tensor], experts: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """:func:`mmparax.ops.functional.mix_expert_sets`."""
    shared, factors = getattr(_open, 'shared', None), None
    # Without the number of a backward pass it cannot be told what belongs to which: each adapter adds its own gradient.
    if shared is not None and torch.is_grad_enabled() and get_backward_id() is not None:
        key = id(experts[0])  # a parameter, which outlives the forward pass
        if key not in shared:
            factors = GradientFactors()
            shared[key] = SharedExperts(AliasExperts.apply(factors, *experts), factors)
        experts, factors = shared[key]
    return list(MixExperts.apply(factors, dtype, *gates, *experts))


class AliasExperts(torch.autograd.Function):
    """The experts themselves; the backward, which follows those of all that use them, sums what they recorded."""

    @staticmethod
    def forward(ctx: Any, factors: GradientFactors, *experts: Tensor) -> tuple[Tensor, ...]:
        ctx.factors, ctx.kinds = factors, [(expert.shape, expert.dtype) for expert in experts]
        ctx.set_materialize_grads(False)
        return tuple(expert.detach() for expert in experts)

    @staticmethod
    def backward(ctx: Any, *_: None) -> tuple[Tensor | None, ...]:
        sums = [None] * len(ctx.kinds)
        recorded = ctx.factors.take()
        with torch.no_grad():
            for i, (shape, dtype) in enumerate(ctx.kinds):
                if recorded and ctx.needs_input_grad[1 + i]:
                    sums[i] = _sum_outer([gates[i] for gates, _ in recorded], [grads[i] for _, grads in recorded], shape, dtype)
        if torch.is_grad_enabled():
            sums = [each if each is None else RefuseSecondDerivative.apply(each.requires_grad_()) for each in sums]
        return None, *sums


class RefuseSecondDerivative(torch.autograd.Function):
    """A gradient itself, which has none: what it was summed from did not pass through autograd, which could not know."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> None:
        raise RuntimeError('trying to differentiate twice a function that was marked with @once_differentiable')


class MixExperts(torch.autograd.Function):
    """:func:`mix_experts` of several sets; with ``factors``, the gradient of the experts is recorded there and not returned."""

    @staticmethod
    def forward(ctx: Any, factors: GradientFactors | None, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        gates, experts = tensors[:len(tensors) // 2], tensors[len(tensors) // 2:]
        ctx.factors = factors
        ctx.save_for_backward(*tensors)
        return tuple(mix_experts(gate, expert, dtype) for gate, expert in zip(gates, experts))

    @staticmethod
    @make_backward
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        count, tensors = len(grads), ctx.saved_tensors
        gates, experts = tensors[:count], tensors[count:]
        of_gates, of_experts = ctx.needs_input_grad[2:2 + count], ctx.needs_input_grad[2 + count:]
        flat = [grad.flatten(1) for grad in grads]
        gate_grads = [
            grad.to(gate.dtype) @ expert.flatten(1).to(gate.dtype).T if needed else None
            for needed, grad, gate, expert in zip(of_gates, flat, gates, experts)
        ]
        expert_grads = [None] * count
        if any(of_experts) and ctx.factors is not None:
            ctx.factors.add(gates, flat)
        else:
            expert_grads = [
                _sum_outer([gate], [grad], expert.shape, expert.dtype) if needed else None
                for needed, gate, grad, expert in zip(of_experts, gates, flat, experts)
            ]
        return None, None, *gate_grads, *expert_grads


def _sum_outer(gates: Sequence[Tensor], grads: Sequence[Tensor], shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Gradient (M, ...) of experts from gates (B, M) and gradients (B, ...), flattened, of what they mixed."""
    with disable_autocast(gates[0].device.type):
        all_gates, all_grads = (each[0] if len(each) == 1 else torch.cat(each) for each in (gates, grads))
        return (all_gates.T @ all_grads.to(all_gates.dtype)).view(shape).to(dtype)
