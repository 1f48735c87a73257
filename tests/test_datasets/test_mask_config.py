"""Configs for the user's own masks: the labels that they train on, and those of the shipped example."""
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, init_default_scope
from mmengine.structures import PixelData
from PIL import Image

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
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU' and cfg.randomness.seed == 0
    # What was not named is as in the base.
    assert cfg.train_dataloader.dataset.data_prefix.img_path == 'images/training'
    assert cfg.default_hooks.checkpoint.type == 'mmparax.CheckpointHook'


def sizes(cfg):
    """(height, width) that images are scaled to fit in, and that of the crops, the same wherever a config has them."""
    scales = {
        tuple(step.scale) for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')
        for step in cfg[loader].dataset.pipeline if step.type in ('Resize', 'RandomResize')
    }
    crop, = (tuple(step.crop_size) for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop')
    assert crop == tuple(cfg.model.data_preprocessor.size) and len(scales) == 1
    return scales.pop()[::-1], crop


@pytest.mark.parametrize('model, shapes, arguments, expected', [
    ('swin-b', [(360, 480)], [], ((360, 480), (352, 480))),
    ('swin-b', [(1080, 1920)], [], ((512, 910), (512, 512))),
    ('swin-b', [(100, 150)], [], ((256, 384), (256, 384))),
    ('swin-b', [(60, 600)], [], ((205, 2048), (192, 512))),
    ('swin-b', [(400, 600), (600, 400)], [], ((400, 600), (384, 384))),
    ('swin-b', [(1080, 1920)], ['--size', '720', '1280'], ((720, 1280), (512, 512))),
    ('swin-b', [(1080, 1920)], ['--size', '720', '1280', '--crop', '640'], ((720, 1280), (640, 640))),
    ('swin-b', [(1080, 1920)], ['--size', '256'], ((256, 256), (256, 256))),
    ('swin-b', [(600, 400)], [], ((600, 400), (512, 384))),
    ('swin-mini', [(128, 128)], [], ((128, 128), (96, 96))),
    ('swin-mini', [(360, 480)], [], ((96, 128), (96, 96))),
    ('swin-mini', [(64, 64)], [], ((64, 64), (64, 64))),
    ('swin-mini', [(360, 480)], ['--size', '180', '240', '--crop', '160', '192'], ((180, 240), (160, 192))),
], ids=str)
def test_sizes_follow_from_the_images(model, shapes, arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(save_shapes(tmp_path, shapes))
    assert prepare('--model', model, '--config', 'mine.py', *arguments) is None
    cfg = Config.fromfile('mine.py')
    assert sizes(cfg) == expected
    assert built(cfg, 'train_dataloader')[0]['inputs'].shape[-2:] <= expected[1]
    longest, shortest = max(expected[0]), min(expected[0])
    for sample in built(cfg, 'val_dataloader'):
        height, width = sample['inputs'].shape[-2:]
        assert max(height, width) <= longest + 31 and min(height, width) <= shortest + 31  # to a multiple of 32
        assert sample['data_samples'].gt_sem_seg.shape == sample['data_samples'].ori_shape


def save_shapes(folder, shapes):
    """Four images with masks, in the given sizes by turns."""
    for kind in ('images', 'masks'):
        (folder / kind).mkdir()
    for number in range(4):
        height, width = shapes[number % len(shapes)]
        mask = np.zeros((height, width), np.uint8)
        mask[:, width // 3:], mask[:, 2 * width // 3:] = 1, 2
        Image.fromarray(mask * 80).save(folder / 'images' / f'{number}.jpg')
        Image.fromarray(mask).save(folder / 'masks' / f'{number}.png')
    return folder


@pytest.mark.parametrize('arguments, message', [
    (['--size', '20'], '--size=(20, 20) is not allowed: height and width must be at least 32 pixels'),
    (['--crop', '0', '64'], 'crop=0 is not allowed'),
    (['--crop', '512'], '--crop=(512, 512) is not allowed: it must fit in the scaled images, 480x360 pixels'),
], ids=str)
def test_wrong_sizes_are_named_and_nothing_is_written(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(save_shapes(tmp_path, [(360, 480)]))
    assert message in prepare(*arguments)
    assert not Path('data').exists()


@pytest.mark.parametrize('model', ['swin-b', 'swin-mini'])
def test_images_for_the_test_are_those_of_the_test(model, tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path))
    for number, part in enumerate(['train', 'train', 'val', 'val', 'test']):
        for kind, suffix in (('images', '.jpg'), ('masks', '.png')):
            Path(kind, part).mkdir(exist_ok=True)
            Path(kind, f'plant_{number}{suffix}').rename(Path(kind, part, f'plant_{number}{suffix}'))
    assert prepare('--model', model, '--config', 'mine.py', '--seed', '7') is None
    cfg = Config.fromfile('mine.py')
    names = {
        loader: [Path(sample['data_samples'].img_path).stem[-1] for sample in built(cfg, f'{loader}_dataloader')]
        for loader in ('train', 'val', 'test')
    }
    assert names == dict(train=['0', '1'], val=['2', '3'], test=['4'])
    assert cfg.test_dataloader.batch_size == 1 and sizes(cfg) and cfg.randomness.seed == 7


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
