"""tools/test.py ends with the columns of the paper's tables and writes the predictions of every task."""
import json
import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from helpers.cases import FEW_BLOCKS, TINY_SWIN
from helpers.tasks import TASKS, config
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.inference.metrics import select_paper_metrics, format_results_table, write_predictions

TOOL = Path(__file__).parents[2] / 'tools' / 'test.py'
SWIN = dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4), allow_random_base=True,
            **{**TINY_SWIN, **FEW_BLOCKS['swin']})
METRICS = {  # what mmengine returns -> what is shown
    'segmentation': (dict(aAcc=81.2, mIoU=50.27, mAcc=60.), {'mIoU': '50.3'}),
    'detection': ({f'coco/{kind}_{item}': value for kind in ('segm', 'bbox') for item, value in
                   (('mAP', 0.4567), ('mAP_50', 0.6), ('mAP_75', 0.481), ('mAP_s', 0.2), ('mAP_m', -1.), ('mAP_l', 0.6))},
                  {'AP^b': '45.7', 'AP^b_50': '60.0', 'AP^b_75': '48.1', 'AP^m': '45.7', 'AP^m_50': '60.0', 'AP^m_75': '48.1'}),
    'panoptic': ({'coco_panoptic/PQ': 41.26, 'coco_panoptic/SQ': 78.04, 'coco_panoptic/RQ': 50., 'coco_panoptic/PQ_th': 47.},
                 {'PQ': '41.3', 'SQ': '78.0', 'RQ': '50.0'}),
    'classification': ({'accuracy/top1': 93.749, 'accuracy/top5': 99.}, {'top-1': '93.7'}),
    'nothing to find': ({'coco/bbox_mAP': -1., 'coco/bbox_mAP_50': 0., 'mIoU': float('nan')},
                        {'mIoU': '–', 'AP^b': '–', 'AP^b_50': '0.0'}),
    'several evaluators': ({'coco_panoptic/PQ': 41., 'coco/segm_mAP': 0.4}, {'AP^m': '40.0', 'PQ': '41.0'}),
    'one metric twice': ({'coco/bbox_mAP': 0.5, 'small/bbox_mAP': 0.25}, {'AP^b': '50.0', 'AP^b (small/bbox_mAP)': '25.0'}),
}


@pytest.mark.parametrize('case', METRICS)
def test_columns_of_the_tables(case):
    metrics, expected = METRICS[case]
    assert list(select_paper_metrics(metrics)) == list(expected)
    lines = format_results_table(metrics).splitlines()
    header, row = ([cell.strip() for cell in line.strip('┃│').replace('┃', '│').split('│')] for line in (lines[2], lines[4]))
    assert dict(zip(header, row)) == expected


def test_other_metrics_have_no_table():
    assert format_results_table({'mDice': 3., 'accuracy/top5': 1.}) == format_results_table({}) == ''


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


OUT = {'segmentation': (labels, 'mIoU'), 'detection': (objects, 'AP^b ┃ AP^b_50 ┃ AP^b_75 ┃ AP^m ┃ AP^m_50 ┃ AP^m_75'),
       'panoptic': (segments, 'PQ ┃ SQ ┃ RQ'), 'classification': (pickled, 'top-1')}


@pytest.mark.parametrize('task', OUT)
def test_every_task_is_evaluated_and_its_predictions_written(task, folder, monkeypatch, capfd):
    check, header = OUT[task]
    monkeypatch.setattr(sys, 'argv', ['test.py', str(folder / f'{task}.py'), str(folder / f'{task}.pth'), '--out',
                                      str(folder / f'{task}_out'), '--show-dir', str(folder / f'{task}_pictures'),
                                      '--work-dir', str(folder / 'work')])
    runpy.run_path(str(TOOL), run_name='__main__')
    lines = capfd.readouterr().out.strip().splitlines()
    assert 'Results in percent' in lines[-6] and ' '.join(lines[-4].split()) == f'┃ {header} ┃'
    assert len(lines[-2].split('│')) == len(header.split('┃')) + 2
    check(folder / f'{task}_out')
    assert len(list((folder / f'{task}_pictures').rglob('*.png'))) == (4 if task == 'classification' else 2)


def test_a_list_of_evaluators(tmp_path):
    """Each that can writes its own files."""
    def cfg(*kinds):
        return Config(dict(default_scope='mmdet', test_evaluator=[dict(type=kind) for kind in kinds]))

    several = cfg('CocoPanopticMetric', 'mmpretrain.Accuracy', 'CocoMetric', 'mmseg.IoUMetric')
    write_predictions(several, str(tmp_path / 'out'))
    assert [dict(metric, type='') for metric in several.test_evaluator] == [
        dict(type='', outfile_prefix=str(tmp_path / 'out' / 'results')), dict(type=''),
        dict(type='', outfile_prefix=str(tmp_path / 'out' / 'results_1')), dict(type='', output_dir=str(tmp_path / 'out' / '2'))]
    assert (tmp_path / 'out').is_dir()
    none = cfg('mmpretrain.Accuracy', 'VOCMetric')
    write_predictions(none, str(tmp_path / 'out'))
    assert [metric.type for metric in none.test_evaluator] == ['mmpretrain.Accuracy', 'VOCMetric', 'DumpResults']
