"""Small models with checkpoints, and images, for the analysis tools."""
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope

from helpers.cases import TINY_SWIN
from helpers.tasks import config
from mmparax.datasets.synthetic.writers import write_scenes

TOOLS = Path(__file__).parents[2] / 'tools' / 'analysis_tools'
SWIN = dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4), allow_random_base=True, **TINY_SWIN)
SIZE = (96, 128)
RESNET = dict(type='ResNet', depth=18, base_channels=8, norm_cfg=dict(type='SyncBN'))


def build_resnet_model(cfg):
    """Build the model config of a segmentation config with mmsegmentation's own ResNet."""
    model = ConfigDict(cfg.model)
    model.backbone = ConfigDict(RESNET)
    widths = [8, 16, 32, 64]
    model.decode_head.in_channels, model.auxiliary_head.in_channels = widths, widths[-1]
    return model


def write_folder(path):
    """Write scenes, configs ``swin.py``, ``resnet.py`` and ``crops.py`` (a classifier), and a checkpoint of each."""
    write_scenes(path / 'scenes', 2, 12, size=SIZE, progress=False)
    for name, task in (('swin', 'segmentation'), ('resnet', 'segmentation'), ('crops', 'classification')):
        backbone = {**SWIN, **(dict(out_indices=(3, ), pad_small_map=True) if name == 'crops' else {})}
        cfg = config(task, path / 'scenes', path / name, backbone)
        if name == 'resnet':
            cfg.model = build_resnet_model(cfg)
        cfg.dump(path / f'{name}.py')
        init_default_scope(cfg.default_scope)
        torch.manual_seed(1)
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), path / f'{name}.pth')
    return path


def call(tool, *arguments, draw=False):
    """Run a tool in this process, its picture left empty unless ``draw``, which takes a second; return what it exits with."""
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr('matplotlib.figure.Figure.savefig', lambda *args, **options: None)
        patch.setattr(sys, 'argv', [f'{tool}.py', *map(str, arguments)])
        try:
            runpy.run_path(str(TOOLS / f'{tool}.py'), run_name='__main__')
        except SystemExit as stopped:
            return stopped.code


class InterruptedFunction:
    """A function that is interrupted at one of its calls, and counts them."""

    def __init__(self, function, at=None):
        self.function, self.at, self.calls = function, at, 0

    def __call__(self, *args, **kwargs):
        if self.calls == self.at:
            raise KeyboardInterrupt
        self.calls += 1
        return self.function(*args, **kwargs)
