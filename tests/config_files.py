"""The shipped configs, and how the tests read and build them at full size without memory."""
from pathlib import Path

from cases import on_meta
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmparax.analysis.data import model_config
from mmparax.registry import MODELS

CONFIGS = Path(__file__).parents[1] / 'configs'
LEAVES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob('*.py')
                if '_base_' not in path.parts and 'existing' not in path.parts)


def load(path):
    """Read a config and make its toolbox's scope the default one."""
    cfg = Config.fromfile(CONFIGS / path)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    return cfg


def build(cfg):
    """The model of a config on the meta device."""
    with on_meta():
        return MODELS.build(model_config(cfg))


def optimizer_of(cfg, model):
    """The optimizer of a config, without the mixed precision that needs a GPU."""
    wrapper = {name: value for name, value in cfg.optim_wrapper.items() if name not in ('loss_scale', 'dtype')}
    return build_optim_wrapper(model, {**wrapper, 'type': 'OptimWrapper'}).optimizer
