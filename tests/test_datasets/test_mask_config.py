"""Configs for the user's own masks: the labels that they train on, and those of the shipped example."""
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, init_default_scope
from mmengine.structures import PixelData

from helpers.config_files import CONFIGS, build
from helpers.mask_folders import COLORS, NAMES, prepare, read, save
from mmparax.checks.model import check_class_counts

EXAMPLE = next((CONFIGS / 'examples').glob('own-data_*'))


def built(cfg, loader, without=()):
    """The data set of a config, its pipeline without some transforms."""
    init_default_scope(cfg.default_scope)
    options = cfg[loader].dataset.to_dict()
    options['pipeline'] = [transform for transform in options['pipeline'] if transform['type'] not in without]
    return DATASETS.build(options)


def check_labels(cfg):
    """The labels of the training and of the test pipeline are those of the masks, and 255 stays ignored."""
    training = built(cfg, 'train_dataloader', without=['PhotoMetricDistortion'])
    assert len(training) == 4 and training.metainfo['classes'] == tuple(NAMES)
    seen = set()
    for sample in training:
        image, labels = sample['inputs'].permute(1, 2, 0).flip(-1).int(), sample['data_samples'].gt_sem_seg.data[0]
        nearest = (image[:, :, None] - torch.from_numpy(COLORS).int()).abs().sum(-1).argmin(-1)
        nearest[nearest == 3] = 255
        assert (nearest == labels).float().mean() > 0.9  # all but the seams
        seen |= set(labels.unique().tolist())
    assert seen == {0, 1, 2, 255}
    validation = built(cfg, 'test_dataloader')
    assert len(validation) == 1
    metric = METRICS.build(cfg.test_evaluator.to_dict())
    metric.dataset_meta = validation.metainfo
    for sample in validation:
        data = sample['data_samples']
        mask = read(data.seg_map_path)
        assert data.ori_shape == mask.shape and np.array_equal(data.gt_sem_seg.data[0], mask)
        data.pred_sem_seg = PixelData(data=torch.from_numpy(np.where(mask == 255, 1, mask))[None])
        metric.process({}, [data.to_dict()])
    assert metric.evaluate(1)['mIoU'] == 100


@pytest.mark.parametrize('model', ['swin-b', 'swin-mini'])
@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_the_config_trains_on_what_was_written(model, suffix, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(save(tmp_path, suffix=suffix))
    assert prepare('--model', model, '--iterations', '60') is None
    text = capsys.readouterr().out.partition('configs/my_data.py:\n\n')[2]
    assert len(text.splitlines()) <= 18 and max(map(len, text.splitlines())) <= 127
    Path('printed.py').write_text(text)
    assert prepare('--model', model, '--iterations', '60', '--force', '--config', 'written.py') is None
    assert Path('written.py').read_text().splitlines()[1:] == text.splitlines()[1:]
    cfg = Config.fromfile('printed.py')
    check_labels(cfg)
    network = build(cfg)
    check_class_counts(network, built(cfg, 'train_dataloader').metainfo, 'train_dataloader.dataset')
    assert network.decode_head.num_classes == network.auxiliary_head.num_classes == 3
    assert network.decode_head.loss_decode.class_weight is None
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 8
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (60, 6 if model == 'swin-b' else 30)
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval
    assert [(step.type, step.begin, step.end, step.by_epoch) for step in cfg.param_scheduler] == [('LinearLR', 0, 3, False),
                                                                                                  ('PolyLR', 3, 60, False)]
    # What was not named is as in the base.
    assert cfg.train_dataloader.dataset.data_prefix.img_path == 'images/training'
    assert cfg.default_hooks.checkpoint.type == 'mmparax.CheckpointHook'


def test_long_lists_of_classes_are_wrapped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(save(tmp_path))
    names = [f'class "{number}" of many' for number in range(150)]
    assert prepare('--config', 'mine.py', classes=names) is None
    lines = Path('mine.py').read_text().splitlines()
    assert max(map(len, lines)) <= 127
    metainfo = Config.fromfile('mine.py').train_dataloader.dataset.metainfo
    assert metainfo.classes == tuple(names) and len({tuple(color) for color in metainfo.palette}) == 150


def test_the_shipped_example_has_the_right_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path))
    assert prepare() is None
    cfg = Config.fromfile(EXAMPLE)
    assert tuple(cfg.train_dataloader.dataset.metainfo.classes) == tuple(NAMES)
    check_labels(cfg)
    settings = [line for line in EXAMPLE.read_text().splitlines() if not line.startswith('#')]
    assert len(settings) < 10
    assert cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin == 400
    assert cfg.param_scheduler[1].end == cfg.train_cfg.max_iters == 8000
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 8
