"""Tests of the files written from synthetic scenes, with the toolboxes' own data sets and metrics."""
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmdet.evaluation import CocoMetric, CocoPanopticMetric
from mmpretrain.datasets import CustomDataset
from mmseg.datasets import BaseSegDataset
from PIL import Image

from mmparax.datasets.synthetic.scenes import CLASSES, PALETTE, STUFF_CLASSES, THING_CLASSES, SceneGenerator, mask_to_bbox
from mmparax.datasets.synthetic.writers import CROP_CLASSES, write_scenes
from mmparax.errors import ParameterError

SIZE = (64, 96)
NUM_TRAIN, NUM_VAL, SEED = 3, 2, 5
FOLDERS = dict(train='training', val='validation')
TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_tools' / 'make_scenes.py'


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'deeper' / 'scenes'
    assert write_scenes(root, NUM_TRAIN, NUM_VAL, SEED, SIZE, progress=False)
    return root


@pytest.fixture(scope='module')
def scenes():
    return [SceneGenerator('train', SEED, SIZE).generate(index) for index in range(NUM_TRAIN)]


def snapshot(root):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob('*')}


def test_layout_of_the_written_files(written):
    files = {path.relative_to(written).as_posix() for path in written.rglob('*') if path.is_file()}
    expected = {'classes.json'}
    for split, count in (('train', NUM_TRAIN), ('val', NUM_VAL)):
        folder = FOLDERS[split]
        expected |= {f'annotations/{kind}_{folder}.json' for kind in ('instances', 'panoptic')}
        for index in range(count):
            name = f'scene_{index:05d}'
            expected |= {
                f'images/{folder}/{name}.jpg', f'annotations/{folder}/{name}.png', f'annotations/panoptic_{folder}/{name}.png'
            }
            crops = SceneGenerator(split, SEED, SIZE).generate(index).find_crops()
            expected |= {f'crops/{folder}/{CLASSES[label]}/{name}_{number}.png' for number, (label, _) in enumerate(crops)}
    assert files == expected
    for folder in FOLDERS.values():  # also the empty ones: the data set counts its classes by them
        assert sorted(path.name for path in (written / 'crops' / folder).iterdir()) == list(CROP_CLASSES)
    meta = json.loads((written / 'classes.json').read_text())
    assert meta['classes'] == list(CLASSES) and [tuple(rgb) for rgb in meta['palette']] == list(PALETTE)
    assert meta['counts'] == dict(train=NUM_TRAIN, val=NUM_VAL)
    assert meta['seed'] == SEED and meta['size'] == list(SIZE) and meta['version'] == 2


@pytest.mark.parametrize('split', ['train', 'val'])
def test_written_files_hold_the_scene(written, split):
    scene, folder = SceneGenerator(split, SEED, SIZE).generate(1), FOLDERS[split]
    labels = Image.open(written / 'annotations' / folder / 'scene_00001.png')
    assert labels.mode == 'L'
    assert np.array_equal(np.asarray(labels), scene.build_semantic_map() + 1)
    image = np.asarray(Image.open(written / 'images' / folder / 'scene_00001.jpg'))
    assert image.shape == (*SIZE, 3)
    assert np.abs(image.astype(int) - scene.image).mean() < 10
    for number, (label, (x1, y1, x2, y2)) in enumerate(scene.find_crops()):
        crop = np.asarray(Image.open(written / 'crops' / folder / CLASSES[label] / f'scene_00001_{number}.png'))
        assert np.array_equal(crop, scene.image[y1:y2, x1:x2])


def test_coco_files_are_numbered_and_described_as_coco_s(written):
    for kind, classes in (('instances', THING_CLASSES), ('panoptic', CLASSES)):
        content = json.loads((written / 'annotations' / f'{kind}_training.json').read_text())
        assert [(each['id'], each['file_name'], each['height'], each['width']) for each in content['images']] == \
            [(index + 1, f'scene_{index:05d}.jpg', *SIZE) for index in range(NUM_TRAIN)]
        assert [(each['id'], each['name'], each['isthing'], tuple(each['color'])) for each in content['categories']] == \
            [(index + 1, name, int(index < 10), PALETTE[index]) for index, name in enumerate(classes)]
        parts = content['annotations'] if kind == 'instances' else \
            [segment for each in content['annotations'] for segment in each['segments_info']]
        assert {part['category_id'] for part in parts} <= set(range(1, len(classes) + 1))
        assert all(part['iscrowd'] == 0 for part in parts)
        if kind == 'instances':  # 0 would count as "no match" in the evaluation
            assert [part['id'] for part in parts] == list(range(1, len(parts) + 1))


def test_panoptic_files_hold_the_segments(written, scenes):
    content = json.loads((written / 'annotations' / 'panoptic_training.json').read_text())
    for scene, annotation in zip(scenes, content['annotations'], strict=True):
        colors = np.asarray(Image.open(written / 'annotations' / 'panoptic_training' / annotation['file_name'])).astype(int)
        written_ids = colors @ (1, 256, 256**2)
        ids, infos = scene.build_panoptic_map()
        assert len(np.unique(written_ids)) == len(infos)
        for info, segment in zip(infos, annotation['segments_info'], strict=True):
            assert np.array_equal(written_ids == segment['id'], ids == info['id']) and segment['id'] > 0
            assert segment['category_id'] == info['category_id'] + 1
            assert (segment['area'], segment['bbox']) == (info['area'], info['bbox'])


def det_options(root, kind, load):
    """Arguments of mmdet's data sets for the training scenes."""
    return dict(
        data_root=str(root), ann_file=f'annotations/{kind}_training.json', filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[
            dict(type='LoadImageFromFile'), load,
            dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape'))
        ])


def test_mmdet_reads_the_instances_and_scores_them(written, scenes):
    load = dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)
    dataset = CocoDataset(data_prefix=dict(img='images/training'), metainfo=dict(classes=THING_CLASSES),
                          **det_options(written, 'instances', load))
    metric = CocoMetric(str(written / 'annotations' / 'instances_training.json'), metric=['bbox', 'segm'])
    metric.dataset_meta = dataset.metainfo
    assert len(dataset) == NUM_TRAIN
    for scene, sample in zip(scenes, dataset):
        data = sample['data_samples']
        truth = data.gt_instances
        assert truth.labels.tolist() == [instance.label for instance in scene.instances]
        assert truth.bboxes.tensor.tolist() == [list(instance.bbox) for instance in scene.instances]
        assert np.array_equal(truth.masks.masks.astype(bool), [instance.mask for instance in scene.instances])
        found = dict(bboxes=truth.bboxes.tensor, labels=truth.labels, scores=torch.ones(len(truth)),
                     masks=torch.from_numpy(truth.masks.masks).bool())
        metric.process({}, [dict(img_id=data.img_id, ori_shape=data.ori_shape, pred_instances=found)])
    scores = metric.evaluate(NUM_TRAIN)
    assert scores['coco/bbox_mAP'] == scores['coco/segm_mAP'] == 1


def test_mmdet_reads_the_segments_and_scores_them(written, scenes):
    classes = dict(classes=CLASSES, thing_classes=THING_CLASSES, stuff_classes=STUFF_CLASSES)
    prefix = dict(img='images/training', seg='annotations/panoptic_training')
    dataset = CocoPanopticDataset(data_prefix=prefix, metainfo=classes,
                                  **det_options(written, 'panoptic', dict(type='mmdet.LoadPanopticAnnotations')))
    metric = CocoPanopticMetric(str(written / 'annotations' / 'panoptic_training.json'),
                                str(written / 'annotations' / 'panoptic_training'))
    metric.dataset_meta = dataset.metainfo
    assert len(dataset) == NUM_TRAIN
    for scene, sample in zip(scenes, dataset):
        data = sample['data_samples']
        truth = data.gt_instances
        assert truth.labels.tolist() == [instance.label for instance in scene.instances]
        assert truth.bboxes.tensor.tolist() == [list(mask_to_bbox(instance.mask)) for instance in scene.instances]
        assert np.array_equal(truth.masks.masks.astype(bool), [instance.mask for instance in scene.instances])
        assert np.array_equal(data.gt_sem_seg.sem_seg[0], scene.build_semantic_map())
        # mmdet's predictions: class + 1000 x number of the instance.
        segments = data.gt_sem_seg.sem_seg.long().clone()
        for number, mask in enumerate(truth.masks.masks, 1):
            segments[0][torch.from_numpy(mask).bool()] += 1000 * number
        metric.process({}, [
            dict(img_id=data.img_id, img_path=data.img_path, ori_shape=data.ori_shape, pred_panoptic_seg=dict(sem_seg=segments))
        ])
    scores = metric.evaluate(NUM_TRAIN)
    assert scores['coco_panoptic/PQ'] == scores['coco_panoptic/PQ_th'] == scores['coco_panoptic/PQ_st'] == 100


def test_mmseg_reads_the_class_maps(written, scenes):
    dataset = BaseSegDataset(
        data_root=str(written), metainfo=dict(classes=CLASSES, palette=[list(color) for color in PALETTE]),
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'), reduce_zero_label=True,
        pipeline=[dict(type='LoadImageFromFile'),
                  dict(type='mmseg.LoadAnnotations', reduce_zero_label=True)])
    assert len(dataset) == NUM_TRAIN
    for scene, sample in zip(scenes, dataset):
        assert sample['img'].shape == (*SIZE, 3)
        assert np.array_equal(sample['gt_seg_map'], scene.build_semantic_map())


def test_mmpretrain_reads_the_crops(written, scenes):
    dataset = CustomDataset(data_root=str(written), data_prefix='crops/training', metainfo=dict(classes=CROP_CLASSES),
                            pipeline=[dict(type='LoadImageFromFile')])
    samples = {Path(sample['img_path']).stem: sample for sample in dataset}
    assert len(samples) == sum(len(scene.find_crops()) for scene in scenes)
    for index, scene in enumerate(scenes):
        for number, (label, (x1, y1, x2, y2)) in enumerate(scene.find_crops()):
            sample = samples[f'scene_{index:05d}_{number}']
            assert CROP_CLASSES[sample['gt_label']] == CLASSES[label]
            assert np.array_equal(sample['img'][..., ::-1], scene.image[y1:y2, x1:x2])  # files are read as BGR


def test_preview_draws_what_was_written(tmp_path, monkeypatch, capsys):
    root = tmp_path / 'scenes'
    monkeypatch.setattr(
        sys, 'argv', [str(TOOL), '--out-dir',
                      str(root), '--num-train', '2', '--num-val', '0', '--size', '64', '--preview', '5'])
    runpy.run_path(str(TOOL), run_name='__main__')
    assert 'preview.png' in capsys.readouterr().out
    picture = np.asarray(Image.open(root / 'preview.png').convert('RGB'))
    assert picture.shape[1] > 1000
    assert all((picture == color).all(-1).any() for color in PALETTE)  # the legend, at the least
    assert not write_scenes(root, 2, 0, 0, (64, 64), progress=False)  # the picture does not spoil the data set


@pytest.mark.parametrize('failure', [RuntimeError, KeyboardInterrupt])
def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch, failure):
    generate = SceneGenerator.generate

    def stop_at_two(self, index):
        if index == 2:
            raise failure('stopped')
        return generate(self, index)

    monkeypatch.setattr(SceneGenerator, 'generate', stop_at_two)
    with pytest.raises(failure):
        write_scenes(tmp_path / 'scenes', 4, 1, 0, SIZE, progress=False)
    assert not list(tmp_path.iterdir())


def test_second_call_does_nothing(written, capsys):
    before = snapshot(written)
    assert not write_scenes(written, NUM_TRAIN, NUM_VAL, SEED, SIZE, progress=False)
    assert 'already holds' in capsys.readouterr().out
    assert snapshot(written) == before


def test_other_parameters_are_refused(written):
    before = snapshot(written)
    with pytest.raises(ParameterError, match='other scenes') as caught:
        write_scenes(written, NUM_TRAIN + 1, NUM_VAL, SEED, SIZE, progress=False)
    assert (caught.value.parameter, caught.value.value) == ('out_dir', str(written)) and 'overwrite=True' in caught.value.remedy
    assert snapshot(written) == before


@pytest.mark.parametrize('pattern', [
    'images/training/*1.jpg', 'annotations/training/*1.png', 'annotations/instances_training.json',
    'annotations/panoptic_validation.json', 'annotations/panoptic_training/*0.png', 'crops/training/*/*.png'
])
def test_missing_files_are_noticed_and_force_repairs(tmp_path, pattern):
    root = tmp_path / 'scenes'
    write_scenes(root, 2, 0, 0, SIZE, progress=False)
    missing = next(root.glob(pattern))
    missing.unlink()
    with pytest.raises(ValueError, match=f'incomplete scenes .files are missing in {missing.parent.relative_to(root)}.'):
        write_scenes(root, 2, 0, 0, SIZE, progress=False)
    assert write_scenes(root, 2, 0, 0, SIZE, progress=False, overwrite=True)
    assert missing.exists() and list(tmp_path.iterdir()) == [root]


def test_scenes_of_the_first_version_are_refused_and_can_be_replaced(tmp_path):
    root = tmp_path / 'scenes'
    write_scenes(root, 2, 1, 3, SIZE, progress=False)
    meta = json.loads((root / 'classes.json').read_text())
    del meta['files']
    (root / 'classes.json').write_text(json.dumps(dict(meta, version=1)))
    for path in (root / 'crops', root / 'annotations' / 'panoptic_training'):
        shutil.rmtree(path)
    before = snapshot(root)
    with pytest.raises(ParameterError) as refused:
        write_scenes(root, 2, 1, 3, SIZE, progress=False)
    assert str(refused.value) == (
        f'out_dir={str(root)!r} is not allowed: it holds scenes of version 1, written before the COCO layouts and the crops were '
        'there (this is version 2). Choose another folder, or replace them with overwrite=True.')
    assert snapshot(root) == before
    assert write_scenes(root, 2, 1, 3, SIZE, progress=False, overwrite=True)
    assert not write_scenes(root, 2, 1, 3, SIZE, progress=False)


@pytest.mark.parametrize('overwrite', [False, True])
def test_foreign_folder_is_never_touched(tmp_path, overwrite):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ParameterError, match='Choose another folder'):
        write_scenes(tmp_path, 1, 0, 0, SIZE, progress=False, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


@pytest.mark.parametrize('name, arguments', [('num_train', dict(num_train=0)), ('num_train', dict(num_train=2.5)),
                                             ('num_val', dict(num_val=-1)), ('seed', dict(seed=-1)),
                                             ('size', dict(size=(63, 128))), ('size', dict(size=(128, 63))),
                                             ('size', dict(size=128))])
def test_bad_arguments_of_the_writer_are_named(tmp_path, name, arguments):
    with pytest.raises(ParameterError) as caught:
        write_scenes(tmp_path / 'scenes', **{**dict(num_train=1, num_val=0, progress=False), **arguments})
    assert caught.value.parameter == name
    assert not list(tmp_path.iterdir())
