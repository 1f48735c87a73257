"""Kinds of mistakes with which a run would stop later, or learn nothing: the doctor names them, and so does the run."""
import json
import os
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, MODELS, init_default_scope
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS as SEG_DATASETS
from PIL import Image

import mmparax
from helpers import runs
from helpers.cases import FEW_BLOCKS, TINY_SWIN
from helpers.tasks import config
from mmparax.checks.findings import summarize
from mmparax.cli import build_runner
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.doctor import Doctor

SWIN = dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4), allow_random_base=True,
            **{**TINY_SWIN, **FEW_BLOCKS['swin']})
ONE_OUTPUT = dict(out_indices=(3, ), pad_small_map=True)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    path = tmp_path_factory.mktemp('doctor_kinds') / 'scenes'
    write_scenes(path, 3, 2, size=(96, 96), progress=False)
    return path


@pytest.fixture
def make(scenes, tmp_path):

    def make(task='segmentation', changes=(), **backbone):
        own = ONE_OUTPUT if task == 'classification' else {}
        cfg = config(task, scenes, tmp_path / 'work', {**SWIN, **own, **backbone}, iterations=2)
        cfg.merge_from_dict(dict(changes))
        return cfg

    return make


def examine(cfg, **options):
    cfg = Config(cfg.to_dict())
    findings = Doctor(cfg, **options).examine()
    for finding in findings:
        print(finding.status, finding.check, finding.text)
    return {finding.check: (finding.status, finding.text) for finding in findings}, *summarize(findings)


def train(cfg):
    build_runner(Config(cfg.to_dict())).train()


# what is changed -> (check of the doctor, what it says); the run stops with the same
PROBLEMS = {
    'metric that is not computed': ({'default_hooks.checkpoint.save_best': 'mDice', 'default_hooks.checkpoint.rule': 'greater'},
                                    'validation', r"save_best='mDice' is not allowed: the validation computes aAcc, mAcc, mIoU"),
    'crop above the size': ({
        'model.data_preprocessor.size': (64, 64)
    }, 'classes', r'data_preprocessor.size=\(64, 64\) is not allowed: train_dataloader.dataset.pipeline crops to 96x96'),
    'one class': ({'model.decode_head.num_classes': 1, 'model.auxiliary_head': None}, 'classes', 'num_classes=1 is not allowed'),
    'weights of classes': ({'model.decode_head.loss_decode': dict(type='CrossEntropyLoss', class_weight=[1.] * 19)}, 'classes',
                           r"model.decode_head.loss_decode.class_weight=\[1.0, 1.0, 1.0, ...\] \(19 entries\) is not allowed: "
                           'this head needs 15 numbers, not 19'),
    'padding of no class': ({'model.data_preprocessor.seg_pad_val': 254}, 'classes',
                            'model.data_preprocessor.seg_pad_val=254 is not allowed: model.decode_head.ignore_index=255'),
    'ignored elsewhere': ({'train_dataloader.dataset.ignore_index': 0}, 'classes', 'model.decode_head.ignore_index=255 is not'),
    'no full batch': ({
        'train_dataloader.batch_size': 64, 'train_dataloader.drop_last': True, 'train_dataloader.sampler.type': 'DefaultSampler'
    }, 'batches', 'train_dataloader.batch_size=64 is not'),
    'half a validation': ({'val_cfg': None}, 'config', 'the config has val_dataloader and val_evaluator, but no val_cfg'),
    'no iteration': ({'train_cfg.max_iters': 0}, 'config', 'train_cfg.max_iters=0 is not allowed'),
    'batch norm of one value': ({'train_dataloader.batch_size': 1}, 'one step',
                                r'decode_head.psp_modules.0.1.bn is a batch norm that sees one value per channel'),
}


@pytest.mark.parametrize('case', PROBLEMS)
def test_what_the_doctor_refuses_the_run_refuses(case, make):
    changes, check, message = PROBLEMS[case]
    cfg = make(changes=changes)
    findings, ready, sentence = examine(cfg)
    assert not ready and check in sentence, findings
    assert findings[check][0] == 'problem'
    with pytest.raises(ValueError, match=message) as refused:
        train(cfg)
    assert str(refused.value) == findings[check][1]


def test_a_validation_without_annotations(make):
    cfg = make()
    cfg.val_dataloader.dataset.pipeline = [step for step in cfg.val_dataloader.dataset.pipeline if 'Annotations' not in step.type]
    findings, ready, _ = examine(cfg)
    assert not ready and 'val_dataloader.dataset.pipeline=' in findings['validation'][1]
    assert 'no step of it loads them' in findings['validation'][1]
    with pytest.raises(ValueError, match='no step of it loads them'):
        train(cfg)


def test_validation_batches_of_different_sizes(make, scenes, tmp_path):
    cfg = make()
    folder = tmp_path / 'mixed'
    for part in ('images', 'annotations'):
        (folder / part).mkdir(parents=True)
    for number, side in enumerate((96, 96, 64)):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / 'images' / f'{number}.jpg')
        Image.fromarray(np.full((side, side), 1, np.uint8)).save(folder / 'annotations' / f'{number}.png')
    cfg.val_dataloader.dataset.update(data_root=str(folder), data_prefix=dict(img_path='images', seg_map_path='annotations'))
    pipeline = [step for step in cfg.val_dataloader.dataset.pipeline if step.type != 'Resize']
    cfg.val_dataloader.dataset.pipeline = pipeline
    cfg.val_dataloader.batch_size = 2
    findings, ready, _ = examine(cfg)
    assert not ready and 'images of different sizes (96x96 and 64x64) do not make a batch' in findings['validation'][1]
    with pytest.raises(ValueError, match='val_dataloader.batch_size=2 is not allowed: images of different sizes'):
        train(cfg)
    cfg.val_dataloader.batch_size = 1
    findings, ready, _ = examine(cfg)
    assert ready, findings


def test_options_of_workers_that_are_not_there(make):
    cfg = make(
        changes={
            f'{name}_dataloader.{option}': value for name in ('train', 'val')
            for option, value in {'num_workers': 0, 'persistent_workers': True, 'prefetch_factor': 2}.items()
        })
    findings, ready, _ = examine(cfg)
    assert ready, findings
    assert 'train_dataloader has num_workers=0 and therefore no persistent_workers and no prefetch_factor' in findings['config'][
        1]
    train(cfg)


def test_the_workers_of_the_config_load(make):
    cfg = make(
        changes={'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True, 'val_dataloader.num_workers': 1})
    findings, ready, _ = examine(cfg)
    assert ready and findings['validation'][1].startswith('on 2 image(s): aAcc '), findings


def ignore_all(folder, scenes):
    """The masks of scenes with nothing but the ignored value."""
    for path in (scenes / 'annotations' / 'training').glob('*.png'):
        Image.fromarray(np.zeros((96, 96), np.uint8)).save(folder / path.name)  # reduce_zero_label makes 0 the ignored value


@pytest.fixture
def blind(monkeypatch):
    """The doctor does not look at the files themselves: what follows is on its own."""
    monkeypatch.setattr('mmparax.doctor.scan_datasets', lambda *_: [])


def test_nothing_is_learned(make, scenes, tmp_path, blind):
    cfg = make()
    ignore_all(tmp_path, scenes)
    cfg.train_dataloader.dataset.data_prefix.seg_map_path = str(tmp_path)
    message = 'nothing is learned: in the first {} step.s. the gradient of every trainable parameter is exactly zero'
    findings, ready, _ = examine(cfg)
    assert not ready and findings['one step'][0] == 'problem'
    assert 'nothing is learned: in the first 5 step(s) the gradient of every trainable' in findings['one step'][1]
    with pytest.raises(RuntimeError, match=message.format(2)):  # it has only two
        train(cfg)
    cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = 6
    with pytest.raises(RuntimeError, match=message.format(5)):
        train(cfg)


def test_a_single_crop_without_labels_is_no_problem(make, scenes, tmp_path):
    cfg = make(**ONE_OUTPUT)
    ignore_all(tmp_path, scenes)
    kept = sorted((scenes / 'annotations' / 'training').glob('*.png'))[0]
    (tmp_path / kept.name).write_bytes(kept.read_bytes())
    cfg.train_dataloader.dataset.data_prefix.seg_map_path = str(tmp_path)
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=False)
    cfg.train_dataloader.dataset.indices = [1, 0]
    cfg.train_dataloader.batch_size = 1
    cfg.model.decode_head.update(type='FCNHead', in_channels=64, in_index=0)
    cfg.model.decode_head.pop('pool_scales')
    cfg.model.auxiliary_head = None
    findings, ready, _ = examine(cfg)
    assert ready and findings['one step'][0] == 'warning', findings
    assert '1 batch(es) before it taught nothing' in findings['one step'][1]
    train(cfg)


def test_crowds_teach_boxes_and_masks_nothing(make, scenes, tmp_path, blind):
    cfg = make('detection')
    content = json.loads((scenes / 'annotations' / 'instances_training.json').read_text())
    for annotation in content['annotations']:
        annotation['iscrowd'] = 1
    (tmp_path / 'crowds.json').write_text(json.dumps(content))
    cfg.train_dataloader.dataset.update(ann_file=str(tmp_path / 'crowds.json'), filter_cfg=None)
    findings, _, _ = examine(cfg)
    status, text = findings['one step']
    assert status in ('warning', 'problem')
    assert 'roi_head.mask_head' in text and 'of the heads learned nothing: the gradient is exactly zero' in text


@pytest.mark.parametrize('task', ['segmentation', 'detection', 'panoptic', 'classification'])
def test_every_task_is_validated_and_resumed(task, make):
    cfg = make(task)
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=1),
        dict(type='MultiStepLR', by_epoch=False, milestones=[1, 2])
    ]
    if task in ('detection', 'panoptic'):
        for metric in cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]:
            metric.outfile_prefix = f'{cfg.work_dir}/results'
    findings, ready, _ = examine(cfg)
    assert ready, findings
    assert findings['validation'][0] == findings['resuming'][0] == 'ok'
    assert 'image(s): ' in findings['validation'][1]
    assert findings['resuming'][1].startswith('weights, optimizer, schedulers and histories are written, read and loaded again')
    assert not os.path.exists(cfg.work_dir)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('loader', ['train', 'val'])
def test_an_error_of_a_pipeline_is_the_same_sentence_everywhere(loader, workers, make):
    cfg = make(changes={f'{loader}_dataloader.num_workers': workers})
    pipeline = cfg[f'{loader}_dataloader'].dataset.pipeline
    pipeline.insert(0, dict(type='RandomCrop', crop_size=(64, 64)))  # before there is an image
    findings, ready, _ = examine(cfg)
    status, text = findings['one step' if loader == 'train' else 'validation']
    place = rf'{loader}_dataloader.dataset: the transform RandomCrop failed on \'[^\']+\' \(KeyError: \'img\'\)'
    assert not ready and status == 'problem' and re.match(place, text), text
    with pytest.raises(RuntimeError, match=place):
        train(cfg)


def test_a_last_batch_of_one_image(make):
    cfg = make(changes={'train_dataloader.sampler.type': 'DefaultSampler', 'train_cfg.max_iters': 4})
    findings, ready, _ = examine(cfg)  # three images in batches of two
    assert not ready and 'the last batch of an epoch has one image' in findings['one step'][1]
    with pytest.raises(ValueError, match='decode_head.psp_modules.0.1.bn is a batch norm that takes one value an image, and the'):
        train(cfg)
    cfg.train_dataloader.drop_last = True
    findings, ready, _ = examine(cfg)
    assert ready, findings
    train(cfg)


def test_an_adapter_of_other_classes_is_a_start(make, tmp_path):
    init_default_scope('mmseg')
    torch.save(dict(MODELS.build(make().model).backbone.frozen_parameters()), tmp_path / 'base.pth')
    base = dict(base_checkpoint=str(tmp_path / 'base.pth'), allow_random_base=False)
    source = make(**base)
    for head in ('decode_head', 'auxiliary_head'):
        source.model[head].num_classes = 7
    mmparax.save_adapter(MODELS.build(source.model), tmp_path / 'adapter.safetensors', include_head=True)
    cfg = make(changes={'load_from': str(tmp_path / 'adapter.safetensors')}, **base)
    findings, ready, _ = examine(cfg)
    status, text = findings['load_from']
    assert ready and status == 'ok' and 'start fresh: 4 (decode_head.conv_seg.weight' in text


def test_another_batch_size_is_said_when_a_run_is_resumed(tmp_path, monkeypatch):
    runs.train(tmp_path, iterations=3, val=False, norm='GN')
    lines = []
    for size, said in ((2, False), (1, True)):
        cfg = runs.config(tmp_path, iterations=4 if size == 2 else 5, interval=1, val=False, norm='GN')
        cfg.train_dataloader.batch_size = size
        runner = runs.build(cfg, resume=True)
        lines.clear()
        monkeypatch.setattr(runner.logger, 'warning', lambda text, *args: lines.append(text % args if args else text))
        runner.train()
        assert any('with 2 images in a batch and is resumed with 1' in line for line in lines) is said
        assert runner.iter == (4 if size == 2 else 5)


@pytest.mark.parametrize('kind', ['custom', 'loader'])
def test_nothing_hangs(kind, make, monkeypatch):
    """Data sets of length 0, and samplers that never give an index."""
    cfg = make()
    if kind == 'custom':
        monkeypatch.setattr('mmparax.checks.loaders.LONGEST_WAIT', 1)
        cfg.train_dataloader.sampler = dict(type='Endless', _scope_='mmengine')
        findings, ready, _ = examine(cfg)
        assert not ready and 'the first batch took more than 1 seconds' in findings['one step'][1]
        return
    cfg.train_dataloader.dataset.update(type='NoScenes', serialize_data=False)
    findings, ready, _ = examine(cfg)
    assert not ready and findings['data'][0] == 'problem' and ' 0 images' in findings['data'][1], findings['data']
    assert findings['batches'] == ('skipped', 'the data have a problem')
    with pytest.raises(ValueError, match='train_dataloader.dataset has 0 images'):
        train(cfg)


@DATA_SAMPLERS.register_module(force=True)
class Endless:
    """Searches for ever."""

    def __init__(self, dataset, seed=None):
        self.size = len(dataset)

    def __iter__(self):
        while True:
            pass
        yield 0

    def __len__(self):
        return self.size


@SEG_DATASETS.register_module(force=True)
class NoScenes(BaseSegDataset):
    """Finds nothing."""

    def load_data_list(self):
        return []
