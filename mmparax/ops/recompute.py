"""Not keeping for the backward what is cheap to compute again."""
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from mmparax.ops.dispatch import get_backend, use_backend

_enabled: bool | None = None
# Called with each tensor that is saved inside :func:`recompute_marked`, whose hooks hide it from hooks around it.
observers: list[Callable[[Tensor], Any]] = []


@contextmanager
def use_recomputation(enabled: bool | None) -> Iterator[None]:
    """Inside, adapters compute again (True), keep everything (False) or do what suits the device (None, the default)."""
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


def disable_recomputation(function: Callable) -> Callable:
    """``function`` without recomputation inside: under activation checkpointing it would hold what that lets go."""

    def call(*inputs: Any) -> Any:
        with use_recomputation(False):
            return function(*inputs)

    return function if torch.compiler.is_compiling() else call


def should_recompute(x: Tensor) -> bool:
    """Whether to compute again rather than to keep: by default on a GPU, whose memory is what is short."""
    enabled = x.is_cuda if _enabled is None else _enabled
    return enabled and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _Recipe:
    """Stands for a tensor that autograd wanted to keep."""

    def __init__(self, compute: Callable[[], Tensor], like: Tensor, circumstances: Callable[[], AbstractContextManager]):
        self.compute, self.shape, self.stride, self.circumstances = compute, like.shape, like.stride(), circumstances

    @torch.no_grad()
    def __call__(self) -> Tensor:
        with self.circumstances():
            return self.compute().as_strided(self.shape, self.stride)


def _capture_circumstances(kind: str) -> Callable[[], AbstractContextManager]:
    """Gives the backend and the autocast of now again later, for the backward may run under others.

    To be called outside any operation: inside one, autocast is off.
    """
    # No cache of casts: those made in a backward know no gradients, and a forward could find them.
    autocast = dict(device_type=kind, enabled=torch.is_autocast_enabled(kind), dtype=torch.get_autocast_dtype(kind),
                    cache_enabled=False)
    backend = get_backend()

    @contextmanager
    def restore() -> Iterator[None]:
        with torch.autocast(**autocast), use_backend(backend):
            yield

    return restore


@contextmanager
def recompute_marked(x: Tensor) -> Iterator[Callable[[Tensor, Callable[[], Tensor]], Tensor]]:
    """Operations inside do not keep the tensors that are marked, or views of all of them, if they :func:`should_recompute`.

    ``tensor = mark(tensor, compute)``: ``compute()`` gives it again in the backward, without gradients and with the same
    layout in memory. What it needs must be kept anyway.

    Args:
        x: what is worked on, to know the device.
    """
    if not should_recompute(x):
        yield lambda tensor, compute: tensor
        return
    circumstances = _capture_circumstances(x.device.type)
    marked: dict[int, tuple[Tensor, Callable[[], Tensor]]] = {}  # the tensors too: a freed one's address could come again

    def mark(tensor: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        marked[tensor.data_ptr()] = tensor, compute
        return tensor

    def pack(saved: Tensor) -> Any:
        tensor, compute = marked.get(saved.data_ptr(), (None, None))
        if tensor is not None and tensor.numel() == saved.numel():
            return _Recipe(compute, saved, circumstances)
        for observe in observers:
            observe(saved)
        return saved.detach()  # an operation's own result would hold the operation, and that it: never freed without a backward

    def unpack(packed: Any) -> Tensor:
        return packed() if isinstance(packed, _Recipe) else packed

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield mark
    marked.clear()
