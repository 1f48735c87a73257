"""Building models at full size without memory: shapes and counts, no values."""
from contextlib import contextmanager
from typing import Any, Callable, Iterator

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmparax.analysis.data import model_config, sub_configs

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


def build_on_meta(cfg: Config) -> nn.Module:
    """The model of a config on the meta device. It looks for no base file; the config's scope becomes the default one."""
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = model_config(cfg)
    for _, part in sub_configs(model):
        if 'base_checkpoint' in part:
            part.update(base_checkpoint=None, allow_random_base=True)
    with on_meta():
        return MODELS.build(model)
