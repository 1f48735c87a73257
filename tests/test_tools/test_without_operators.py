"""With mmcv-lite, which has no compiled operators, classification works although mmseg and mmdet are there and do not import."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Python imports this module at its start, in every process of the run.
BLOCKER = """
import importlib.machinery, sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in ('mmdet.models', 'mmseg.models'):
            raise ModuleNotFoundError("No module named 'mmcv._ext'", name='mmcv._ext')
        return None if name == 'mmcv._ext' else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
"""


@pytest.fixture
def lite(tmp_path):
    """Run Python as if mmcv-lite were there; what it needs of mmcv, mmseg and mmdet fails as with that one."""
    (tmp_path / 'blocker').mkdir()
    (tmp_path / 'blocker' / 'sitecustomize.py').write_text(BLOCKER)
    path = os.pathsep.join([str(tmp_path / 'blocker'), str(ROOT), os.environ.get('PYTHONPATH', '')])
    return lambda *command: subprocess.run([sys.executable, '-W', 'ignore', *map(str, command)], text=True, capture_output=True,
                                           cwd=tmp_path, env={**os.environ, 'PYTHONPATH': path})


def test_the_families_of_classification_are_built(lite):
    done = lite(
        '-c', """
import torch, mmparax, mmparax.checks.random_batch, mmparax.doctor, mmparax.cli
from mmengine.registry import MODELS
for family, options in (('ViT', dict(arch='deit-tiny', img_size=64)), ('Swin', dict(arch='tiny', pad_small_map=True)),
                        ('ConvNeXt', dict(arch='atto'))):
    options = dict(adapter=dict(type='mmparax.AdaRoute'), allow_random_base=True, **options)
    model = MODELS.build(dict(type='mmparax.Adapted' + family, **options))
    print(family, len(model(torch.zeros(1, 3, 64, 64))[-1]))
for make in (lambda: MODELS.build(dict(type='mmparax.AdaptedMiT')), mmparax.AdaRouteMiT):
    try:
        make()
    except ImportError as error:
        print(error)
""")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith(('ViT', 'Swin', 'ConvNeXt', 'mmparax'))]
    assert said[:3] == ['ViT 1', 'Swin 1', 'ConvNeXt 1'] and len(said) == 5
    for line in said[3:]:
        assert line == ("mmparax needs mmseg.models here, and that cannot be imported (ModuleNotFoundError: No module named "
                        "'mmcv._ext'). mmcv-lite has no compiled operators: install mmcv in its place.")


@pytest.mark.full
def test_classification_is_trained_and_tested(lite, tmp_path):
    done = lite(ROOT / 'tools' / 'quickstart.py', '--task', 'classification', '--iterations', 2, '--num-train', 8, '--num-val', 3)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / 'work_dirs' / 'quickstart' / 'classification' / 'adaroute_seed0' / 'prediction.png').is_file()
