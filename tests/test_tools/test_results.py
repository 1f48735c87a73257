"""tools/test.py ends with the columns of the paper's tables and writes the predictions of every task."""
import json
import os
import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from helpers.cases import FEW_BLOCKS, TINY_SWIN
from helpers.tasks import TASKS, config
from mmparax.datasets.synthetic.writers import write_scenes

TOOL = Path(__file__).parents[2] / 'tools' / 'test.py'
SWIN = dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4), allow_random_base=True,
            **{**TINY_SWIN, **FEW_BLOCKS['swin']})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('results')
    write_scenes(path / 'scenes', 1, 2, size=(64, 96), progress=False)
    for task in TASKS:
        one_output = dict(out_indices=(3, ), pad_small_map=True) if task == 'classification' else {}
        cfg = config(task, path / 'scenes', path / task, {**SWIN, **one_output})
        cfg.test_dataloader.dataset.indices = cfg.val_dataloader.dataset.indices = 4
        cfg.dump(path / f'{task}.py')
        init_default_scope(cfg.default_scope)
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), path / f'{task}.pth')
    return path


def labels(out):
    maps = sorted(out.glob('*.png'))
    assert [path.name for path in maps] == ['scene_00000.png', 'scene_00001.png']
    for path in maps:
        values = np.asarray(Image.open(path))
        assert values.shape == (64, 96) and 1 <= values.min() and values.max() <= 15


def objects(out):
    for kind, field in (('bbox', 'bbox'), ('segm', 'segmentation')):
        found = json.loads((out / f'results.{kind}.json').read_text())
        assert {entry['image_id'] for entry in found} == {1, 2} and all(field in entry for entry in found)


def segments(out):
    described = json.loads((out / 'results.panoptic.json').read_text())['annotations']
    maps = sorted((out / 'results.panoptic').glob('*.png'))
    assert [entry['file_name'] for entry in described] == [path.name for path in maps] == ['scene_00000.png', 'scene_00001.png']
    for path, entry in zip(maps, described):
        values = np.asarray(Image.open(path)).astype(int) @ [1, 256, 256**2]
        assert {segment['id'] for segment in entry['segments_info']} == set(np.unique(values)) - {0}


def pickled(out):
    found = pickle.loads((out / 'predictions.pkl').read_bytes())
    assert len(found) == 4 and all(len(entry['pred_score']) == 15 for entry in found)


OUT = {
    'segmentation': (labels, 'mIoU'), 'detection': (objects, 'AP^b ┃ AP^b_50 ┃ AP^b_75 ┃ AP^m ┃ AP^m_50 ┃ AP^m_75'),
    'panoptic': (segments, 'PQ ┃ SQ ┃ RQ'), 'classification': (pickled, 'top-1')
}


@pytest.mark.parametrize('task', OUT)
def test_every_task_is_evaluated_and_its_predictions_written(task, folder, monkeypatch, capfd):
    check, header = OUT[task]
    monkeypatch.setattr(sys, 'argv', [
        'test.py',
        str(folder / f'{task}.py'),
        str(folder / f'{task}.pth'), '--out-dir',
        str(folder / f'{task}_out'), '--show-dir',
        str(folder / f'{task}_pictures'), '--work-dir',
        str(folder / 'work')
    ])
    runpy.run_path(str(TOOL), run_name='__main__')
    lines = capfd.readouterr().out.strip().splitlines()
    assert 'Results in percent' in lines[-6] and ' '.join(lines[-4].split()) == f'┃ {header} ┃'
    assert len(lines[-2].split('│')) == len(header.split('┃')) + 2
    check(folder / f'{task}_out')
    pictures = sorted(
        path.relative_to(folder / f'{task}_pictures').as_posix() for path in (folder / f'{task}_pictures').rglob('*'))
    names = [f'scene_0000{number}.png' for number in range(2)]
    assert pictures == (['scene_00000_0.png', *(f'scene_00001_{number}.png'
                                                for number in range(3))] if task == 'classification' else names)
    drawn = np.asarray(Image.open(folder / f'{task}_pictures' / pictures[0]))
    side = 512 if task != 'classification' else drawn.shape[0] - 24
    assert side >= 500
    assert drawn.shape[0] == side + 24 and drawn.shape[1] > 2 * side - 8  # ground truth and prediction below their names
    about = json.loads(max((folder / 'work').glob('*/vis_data/evaluation.json'), key=os.path.getmtime).read_text())
    count = 4 if task == 'classification' else 2
    assert (about['images'], about['split'], about['subset']) == (count, 'validation', True)
    assert f'Results in percent on {count} images of validation (a subset):' in lines[-6]
