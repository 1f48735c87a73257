"""Not keeping for the backward what is cheap to compute again."""
from contextlib import contextmanager
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Tuple

import torch
from torch import Tensor

from mmparax.ops.paths import chosen_path, use_path

_chosen: Optional[bool] = None
# Called with each tensor that is kept inside :func:`recomputed`, whose hooks hide it from hooks around it.
observers: List[Callable[[Tensor], Any]] = []


@contextmanager
def recompute(wanted: Optional[bool]) -> Iterator[None]:
    """Inside, adapters compute again (True), keep everything (False) or do what suits the device (None, the default)."""
    global _chosen
    before, _chosen = _chosen, wanted
    try:
        yield
    finally:
        _chosen = before


def keeping_all(function: Callable) -> Callable:
    """``function`` without recomputation inside: under activation checkpointing it would hold what that lets go."""

    def call(*inputs: Any) -> Any:
        with recompute(False):
            return function(*inputs)

    return function if torch.compiler.is_compiling() else call


def worthwhile(x: Tensor) -> bool:
    """Whether to compute again rather than to keep: by default on a GPU, whose memory is what is short."""
    wanted = x.is_cuda if _chosen is None else _chosen
    return wanted and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class _Recipe:
    """Stands for a tensor that autograd wanted to keep."""

    def __init__(self, compute: Callable[[], Tensor], like: Tensor, circumstances: Callable[[], ContextManager]):
        self.compute, self.shape, self.stride, self.circumstances = compute, like.shape, like.stride(), circumstances

    @torch.no_grad()
    def __call__(self) -> Tensor:
        with self.circumstances():
            return self.compute().as_strided(self.shape, self.stride)


def _circumstances(kind: str) -> Callable[[], ContextManager]:
    """Gives the path and the autocast of now again later, for the backward may run under others.

    To be called outside any operation: inside one, autocast is off.
    """
    # No cache of casts: those made in a backward know no gradients, and a forward could find them.
    autocast = dict(device_type=kind, enabled=torch.is_autocast_enabled(kind), dtype=torch.get_autocast_dtype(kind),
                    cache_enabled=False)
    path = chosen_path()

    @contextmanager
    def again() -> Iterator[None]:
        with torch.autocast(**autocast), use_path(path):
            yield

    return again


@contextmanager
def recomputed(x: Tensor) -> Iterator[Callable[[Tensor, Callable[[], Tensor]], Tensor]]:
    """Operations inside do not keep the tensors that are marked, or views of all of them, if that is :func:`worthwhile`.

    ``tensor = mark(tensor, compute)``: ``compute()`` gives it again in the backward, without gradients and with the same
    layout in memory. What it needs must be kept anyway.

    Args:
        x: what is worked on, to know the device.
    """
    if not worthwhile(x):
        yield lambda tensor, compute: tensor
        return
    circumstances = _circumstances(x.device.type)
    marked: Dict[int, Tuple[Tensor, Callable[[], Tensor]]] = {}  # the tensors too: a freed one's address could come again

    def mark(tensor: Tensor, compute: Callable[[], Tensor]) -> Tensor:
        marked[tensor.data_ptr()] = tensor, compute
        return tensor

    def pack(kept: Tensor) -> Any:
        tensor, compute = marked.get(kept.data_ptr(), (None, None))
        if tensor is not None and tensor.numel() == kept.numel():
            return _Recipe(compute, kept, circumstances)
        for observe in observers:
            observe(kept)
        return kept.detach()  # an operation's own result would hold the operation, and that it: never freed without a backward

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept() if isinstance(kept, _Recipe) else kept):
        yield mark
    marked.clear()
