"""Building models at full size without memory: shapes and counts, no values."""
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Mapping

import torch
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

# Upstream reads numbers from these (rates of stochastic depth, indices of windows).
ON_CPU = ('linspace', 'arange')
# Without values there is nothing to draw, and it would take most of the time.
NOT_DRAWN = ('uniform_', 'normal_', 'trunc_normal_', 'kaiming_uniform_', 'kaiming_normal_')


def _on_cpu(create: Callable[..., Tensor]) -> Callable[..., Tensor]:

    def created(*args: Any, **kwargs: Any) -> Tensor:
        return create(*args, **{**kwargs, 'device': kwargs.get('device') or 'cpu'})

    return created


def _not_drawn(tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor


@contextmanager
def on_meta() -> Iterator[None]:
    """Build models on the meta device: every parameter has its shape and no memory.

    A few functions of torch are others meanwhile, for the whole process.
    """
    replaced = [(torch, name, _on_cpu(getattr(torch, name))) for name in ON_CPU]
    replaced += [(nn.init, name, _not_drawn) for name in NOT_DRAWN]
    originals = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    try:
        for module, name, function in replaced:
            setattr(module, name, function)
        with torch.device('meta'):
            yield
    finally:
        for module, name, function in originals:
            setattr(module, name, function)


def build_on_meta(model: Mapping[str, Any], scope: str) -> nn.Module:
    """Build a model on the meta device.

    Args:
        model: its config.
        scope: the toolbox whose names it has; it becomes the default scope.
    """
    init_default_scope(scope)
    with on_meta():
        return MODELS.build(model)
