"""Building models at full size without memory: shapes and counts, no values."""
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# Upstream reads numbers from these (rates of stochastic depth, indices of windows).
ON_CPU = frozenset([torch.linspace, torch.arange])
# What initialization writes into tensors that have no values; PyTorch takes long to find that nothing is to be written.
FILLS = frozenset([
    nn.init.uniform_, nn.init.normal_, nn.init.constant_, nn.init.kaiming_uniform_, Tensor.uniform_, Tensor.normal_,
    Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_, Tensor.fill_, Tensor.zero_
])


class _MetaConstruction(TorchFunctionMode):
    """Creates on the CPU what upstream reads numbers from, and writes no values. It holds for its thread alone."""

    def __torch_function__(self, function: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if function in FILLS:
            tensor = args[0] if args else kwargs['tensor']
            if tensor.is_meta:
                return tensor
        if function in ON_CPU and kwargs.get('device') is None:
            kwargs = {**kwargs, 'device': 'cpu'}
        return function(*args, **kwargs)


@contextmanager
def use_meta_device() -> Iterator[None]:
    """Build models on the meta device: every parameter has its shape and no memory. Other threads are not affected."""
    with torch.device('meta'), _MetaConstruction():
        yield


def build_on_meta(model: Mapping[str, Any], scope: str) -> nn.Module:
    """Build a model on the meta device.

    Args:
        model: its config.
        scope: the toolbox whose names it has; it becomes the default scope.
    """
    init_default_scope(scope)
    with use_meta_device():
        return MODELS.build(model)
