"""The shipped configs, and how the tests read and build them at full size without memory."""
import copy
import functools
from pathlib import Path

from mmengine.config import Config
from mmengine.fileio import load as read_yaml
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from mmparax.config.query import get_model_config
from mmparax.registry import MODELS
from mmparax.utils.meta_device import use_meta_device

CONFIGS = Path(__file__).parents[2] / 'configs'
LEAVES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)


@functools.cache
def read(path):
    return Config.fromfile(CONFIGS / path)


def load(path):
    """A copy of a config; its toolbox's scope becomes the default one."""
    cfg = copy.deepcopy(read(str(path)))
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    return cfg


@functools.cache
def metadata():
    """Path of each config below ``configs/`` -> its entry in the metafiles that model-index.yml names."""
    root = CONFIGS.parent
    models = [model for path in read_yaml(root / 'model-index.yml')['Import'] for model in read_yaml(root / path)['Models']]
    listed = {model['Config'][len('configs/'):]: model for model in models}
    assert len(listed) == len(models)
    return listed


def of_metadata(cfg):
    """The metadata of a config that was read by :func:`load`."""
    return metadata()[str(Path(cfg.filename).relative_to(CONFIGS))]['Metadata']


def build(cfg):
    """The model of a config on the meta device."""
    with use_meta_device():
        return MODELS.build(get_model_config(cfg))


def build_backbone(cfg):
    """A module with nothing but the ``backbone`` of a config, on the meta device."""
    with use_meta_device():
        return nn.ModuleDict(dict(backbone=MODELS.build(cfg.model.backbone)))


def optimizer_of(cfg, model):
    """The optimizer of a config, without the mixed precision that needs a GPU."""
    # A plain dict: torch compares every group with every other one, which takes twice as long with mmengine's.
    wrapper = {name: value for name, value in cfg.optim_wrapper.to_dict().items() if name not in ('loss_scale', 'dtype')}
    return build_optim_wrapper(model, {**wrapper, 'type': 'OptimWrapper'}).optimizer
