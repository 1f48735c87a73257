"""Mixing the experts of a center, with the gradients of all adapters of a forward pass summed at once.

An adapter's gradient of the experts is an outer product, gates x gradient of the mixed matrix, as large as all experts
together: written and added to the others' it is a quarter of the time of a small adapter. Inside :func:`summed_at_once`
adapters only note the two factors, and one matrix product for all of them follows when the last one is done.
"""
import functools
import threading
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mmparax.ops.functions import plain_backward
from mmparax.ops.paths import path_for
from mmparax.ops.routing import mix_experts, no_autocast


class Notes:
    """Gates and gradients of mixed experts, noted in a backward pass.

    By the number of the pass: one for other inputs alone never comes to the experts, and another may follow on the same graph.
    """

    def __init__(self) -> None:
        self.of_pass: Dict[int, List[Tuple[Sequence[Tensor], Sequence[Tensor]]]] = {}

    def add(self, gates: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        self.of_pass.setdefault(torch._C._current_graph_task_id(), []).append((gates, grads))

    def take(self) -> List[Tuple[Sequence[Tensor], Sequence[Tensor]]]:
        return self.of_pass.pop(torch._C._current_graph_task_id(), [])


class Shared(NamedTuple):
    """The experts of a center in one forward pass: stand-ins, through which no gradient flows, and what is noted for them."""
    experts: Tuple[Tensor, ...]
    notes: Notes


_open = threading.local()


def summed_at_once(forward: Callable) -> Callable:
    """A backbone's ``forward``: the gradients of experts that are mixed inside are summed at once."""

    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # mixes by the eager path
            return forward(*args, **kwargs)
        before, _open.shared = getattr(_open, 'shared', None), {}
        try:
            return forward(*args, **kwargs)
        finally:
            _open.shared = before

    return call


def mix_all(gates: Sequence[Tensor], experts: Sequence[Tensor], dtype: torch.dtype, like: Tensor) -> List[Tensor]:
    """Weighted sums of several sets of experts for each sample.

    Args:
        gates: (B, M) for each set.
        experts: (M, ...) for each set.
        dtype: of the results.
        like: input of the adapter, to choose the path.

    Returns:
        list[Tensor]: (B, ...) for each set.
    """
    if path_for(like) == 'eager':
        return [mix_experts(gate, expert, dtype) for gate, expert in zip(gates, experts)]
    shared, notes = getattr(_open, 'shared', None), None
    if shared is not None and torch.is_grad_enabled():
        key = id(experts[0])  # a parameter, which outlives the forward pass
        if key not in shared:
            notes = Notes()
            shared[key] = Shared(StandIns.apply(notes, *experts), notes)
        experts, notes = shared[key]
    return list(Mix.apply(notes, dtype, *gates, *experts))


class StandIns(torch.autograd.Function):
    """The experts themselves; the backward, which follows those of all that use them, sums what they noted."""

    @staticmethod
    def forward(ctx: Any, notes: Notes, *experts: Tensor) -> Tuple[Tensor, ...]:
        ctx.notes, ctx.kinds = notes, [(expert.shape, expert.dtype) for expert in experts]
        ctx.set_materialize_grads(False)
        return tuple(expert.detach() for expert in experts)

    @staticmethod
    def backward(ctx: Any, *_: None) -> Tuple[Optional[Tensor], ...]:
        sums = [None] * len(ctx.kinds)
        noted = ctx.notes.take()
        with torch.no_grad():
            for i, (shape, dtype) in enumerate(ctx.kinds):
                if noted and ctx.needs_input_grad[1 + i]:
                    sums[i] = _sum_outer([gates[i] for gates, _ in noted], [grads[i] for _, grads in noted], shape, dtype)
        if torch.is_grad_enabled():
            sums = [each if each is None else Once.apply(each.requires_grad_()) for each in sums]
        return None, *sums


class Once(torch.autograd.Function):
    """A gradient itself, which has none: what it was summed from did not pass through autograd, which could not know."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> None:
        raise RuntimeError('trying to differentiate twice a function that was marked with @once_differentiable')


class Mix(torch.autograd.Function):
    """:func:`mix_experts` of several sets; with notes, the gradient of the experts is noted and not returned."""

    @staticmethod
    def forward(ctx: Any, notes: Optional[Notes], dtype: torch.dtype, *tensors: Tensor) -> Tuple[Tensor, ...]:
        gates, experts = tensors[:len(tensors) // 2], tensors[len(tensors) // 2:]
        ctx.notes = notes
        ctx.save_for_backward(*tensors)
        return tuple(mix_experts(gate, expert, dtype) for gate, expert in zip(gates, experts))

    @staticmethod
    @plain_backward
    def backward(ctx: Any, *grads: Tensor) -> Tuple[Optional[Tensor], ...]:
        count, tensors = len(grads), ctx.saved_tensors
        gates, experts = tensors[:count], tensors[count:]
        of_gates, of_experts = ctx.needs_input_grad[2:2 + count], ctx.needs_input_grad[2 + count:]
        grads = [grad.flatten(1) for grad in grads]
        gate_grads = [grad.to(gate.dtype) @ expert.flatten(1).to(gate.dtype).T if needed else None
                      for needed, grad, gate, expert in zip(of_gates, grads, gates, experts)]
        expert_grads = [None] * count
        if any(of_experts) and ctx.notes is not None:
            ctx.notes.add(gates, grads)
        else:
            expert_grads = [_sum_outer([gate], [grad], expert.shape, expert.dtype) if needed else None
                            for needed, gate, grad, expert in zip(of_experts, gates, grads, experts)]
        return None, None, *gate_grads, *expert_grads


def _sum_outer(gates: Sequence[Tensor], grads: Sequence[Tensor], shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Gradient (M, ...) of experts from gates (B, M) and gradients (B, ...), flattened, of what they mixed."""
    with no_autocast(gates[0].device.type):
        gates, grads = (each[0] if len(each) == 1 else torch.cat(each) for each in (gates, grads))
        return (gates.T @ grads.to(gates.dtype)).view(shape).to(dtype)
