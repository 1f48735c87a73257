"""The doctor examines every task, with and without its data (test_doctor.py has segmentation)."""
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from helpers.cases import FEW_BLOCKS, TINY_SWIN
from helpers.tasks import config
from mmparax.checks.findings import summarize
from mmparax.checks.random_batch import make_random_batch
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.doctor import Doctor

SWIN = dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4), allow_random_base=True,
            **{**TINY_SWIN, **FEW_BLOCKS['swin']})
ONE_OUTPUT = dict(out_indices=(3, ), pad_small_map=True)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    path = tmp_path_factory.mktemp('doctor_tasks') / 'scenes'
    write_scenes(path, 2, 1, size=(64, 96), progress=False)
    return path


def examine(cfg, batch_size=2):
    findings = Doctor(cfg, batch_size).examine()
    return {finding.check: (finding.status, finding.text) for finding in findings}, *summarize(findings)


def run(task, scenes, tmp_path, **options):
    backbone = {**SWIN, **(ONE_OUTPUT if task == 'classification' else {}), **options}
    return config(task, scenes, tmp_path / 'work', backbone)


@pytest.mark.parametrize('task', ['panoptic', 'classification'])
def test_one_step_on_the_data(task, scenes, tmp_path):
    findings, ready, _ = examine(run(task, scenes, tmp_path))
    assert ready, findings
    assert findings['data'][1] == 'the folders and files of all data sets exist, and have the classes of the config'
    assert findings['features'][0] == findings['classes'][0] == findings['frozen'][0] == 'ok'
    assert findings['one step'][1].startswith('on 2 training images: loss ')


@pytest.mark.parametrize('task', ['detection', 'panoptic', 'classification'])
def test_one_step_without_the_data(task, tmp_path):
    findings, _, sentence = examine(run(task, tmp_path / 'absent', tmp_path))
    assert sentence.startswith('NOT READY: 1 problem(s): data.')
    status, text = findings['one step']
    assert status == 'ok' and 'on 2 random images (the data are not there): loss ' in text
    assert 'a finite gradient for each of' in text and 'the frozen base unchanged' in text


def test_random_labels_are_those_of_the_heads(tmp_path):
    for task, fields in {
            'segmentation': ['gt_sem_seg'], 'detection': ['gt_instances'], 'classification': ['gt_label'],
            'panoptic': ['gt_instances', 'gt_sem_seg']
    }.items():
        cfg = run(task, tmp_path, tmp_path)
        init_default_scope(cfg.default_scope)
        batch = make_random_batch(MODELS.build(cfg.model), 3)
        assert len(batch['inputs']) == len(batch['data_samples']) == 3
        for sample, image in zip(batch['data_samples'], batch['inputs']):
            assert sorted(sample.keys()) == fields and sample.img_shape == image.shape[1:]
            if 'gt_instances' in sample:
                objects = sample.gt_instances
                assert len(objects.masks) == len(objects.labels) > 0 and objects.labels.max() < 10
                for mask, (left, top, right, bottom) in zip(objects.masks.masks, objects.bboxes):
                    assert abs(mask.sum() / float((right - left) * (bottom - top)) - 1) < 0.1


def test_a_model_whose_parts_do_not_fit_takes_no_step(tmp_path):
    cfg = run('detection', tmp_path, tmp_path)
    cfg.model.neck.in_channels = [8, 16, 32]
    findings, ready, sentence = examine(cfg)
    assert not ready and 'features' in sentence and findings['one step'] == ('skipped', 'the parts of the model do not fit')
    assert 'model.neck.in_channels=[8, 16, 32] is not allowed' in findings['features'][1]


def test_heads_for_other_classes_take_no_step(scenes, tmp_path):
    cfg = run('segmentation', scenes, tmp_path)
    cfg.model.decode_head.num_classes = 150
    findings, ready, _ = examine(cfg)
    assert not ready and 'model.decode_head.num_classes=150 is not allowed' in findings['classes'][1]
    assert findings['one step'][0] == 'skipped'


def test_data_that_download_themselves_are_not_fetched(tmp_path):
    cfg = run('classification', tmp_path, tmp_path)
    for name in ('train', 'val', 'test'):
        cfg[f'{name}_dataloader'].dataset = dict(type='CIFAR100', data_root=str(tmp_path / 'cifar'), pipeline=[],
                                                 split='train' if name == 'train' else 'test')
    cfg.model.head.num_classes = 100
    findings, ready, _ = examine(cfg)
    assert ready and not (tmp_path / 'cifar').exists()
    assert findings['data'] == ('ok', f"will be downloaded into '{tmp_path / 'cifar'}' at the start of the run")
    assert '2 random images' in findings['one step'][1]


def test_a_preprocessor_beside_the_model_is_used(scenes, tmp_path):
    """mmengine's runner gives it to the model; so does the doctor."""
    cfg = run('classification', scenes, tmp_path)
    cfg.data_preprocessor = Config(dict(cfg.model.pop('data_preprocessor'))).to_dict()
    doctor = Doctor(cfg)
    doctor.examine()
    assert doctor.model.data_preprocessor.to_rgb and doctor.model.data_preprocessor.mean.flatten()[0] == 123.675
