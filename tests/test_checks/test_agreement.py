"""Data sets that contradict each other, their evaluators or the file that training starts from."""
import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from helpers.mask_data import CLASSES, LOADERS, configure, examine, write
from helpers.tasks import DATASETS as CONFIGS
from helpers.tasks import move_scenes
from mmparax.checks.data import check_datasets
from mmparax.checks.hidden_folders import leave_out_hidden_folders
from mmparax.checks.scan import scan_datasets
from mmparax.datasets.synthetic.writers import write_scenes

NAMES = ('ash', 'birch', 'oak')


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(path)


def write_folders(folder, train=NAMES, val=NAMES):
    for part, names in (('train', train), ('val', val)):
        for name in names:
            for number in range(2):
                save(folder / part / name / f'{number}.jpg')
    return folder


def configure_folders(folder, **options):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]

    def load(part):
        dataset = dict(type='CustomDataset', data_root=str(folder), data_prefix=part, pipeline=pipeline, **options)
        return dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)

    return Config(
        dict(default_scope='mmpretrain', train_dataloader=load('train'), val_dataloader=load('val'), test_dataloader=load('val')))


def build(cfg, loader):
    with DATASETS.switch_scope_and_registry('mmpretrain'):
        return DATASETS.build(cfg[loader].dataset)


def test_folders_of_the_same_classes_are_right(tmp_path):
    write_folders(tmp_path)
    assert examine(configure_folders(tmp_path))[0] == 'ok'
    assert examine(configure_folders(tmp_path, metainfo=dict(classes=NAMES)))[0] == 'ok'


@pytest.mark.parametrize('lacking', ['train', 'val'])
def test_a_folder_that_one_set_lacks(lacking, tmp_path):
    write_folders(tmp_path, **{lacking: NAMES[::2]})
    status, text = examine(configure_folders(tmp_path))
    assert status == 'problem' and "'birch'" in text and 'val_dataloader.dataset has' in text
    assert "Make an empty folder for each class that has none, or use type='mmparax.ClassFolders' with metainfo=dict(" in text
    # Both remedies lead somewhere; so does the one for classes that are given.
    status, text = examine(configure_folders(tmp_path, metainfo=dict(classes=NAMES)))
    assert status == 'problem' and "1 ('birch') have none. Use type='mmparax.ClassFolders'" in text
    cfg = configure_folders(tmp_path, metainfo=dict(classes=NAMES))
    for loader in LOADERS:
        cfg[loader].dataset.type = 'mmparax.ClassFolders'
    assert examine(cfg)[0] == 'ok'
    built = build(cfg, f'{lacking}_dataloader')
    assert built.metainfo['classes'] == NAMES and built.get_gt_labels().tolist() == [0, 0, 2, 2]
    (tmp_path / lacking / 'birch').mkdir()
    assert examine(configure_folders(tmp_path))[0] == 'ok'


@pytest.mark.parametrize('hidden', ['.ipynb_checkpoints', '__MACOSX', '.DS_Store'])
@pytest.mark.parametrize('given', [None, NAMES])
def test_hidden_folders_are_no_classes(hidden, given, tmp_path):
    write_folders(tmp_path)
    (tmp_path / 'train' / hidden).mkdir()
    save(tmp_path / 'train' / 'oak' / '.ipynb_checkpoints' / '0-checkpoint.jpg')
    cfg = configure_folders(tmp_path, **({} if given is None else dict(metainfo=dict(classes=given))))
    status, text = examine(cfg)
    assert status == 'warning' and f"holds '{hidden}', which is no class: train_dataloader.dataset is read by" in text
    assert len(leave_out_hidden_folders(cfg, LOADERS)) == 1
    check_datasets(cfg, LOADERS)
    assert cfg.val_dataloader.dataset.type == 'CustomDataset'
    built = build(cfg, 'train_dataloader')
    assert built.metainfo['classes'] == NAMES and built.get_gt_labels().tolist() == [0, 0, 1, 1, 2, 2]


def test_hidden_folders_inside_those_of_classes_are_named(tmp_path):
    write_folders(tmp_path)
    save(tmp_path / 'train' / 'oak' / '.ipynb_checkpoints' / '0-checkpoint.jpg')
    status, text = examine(configure_folders(tmp_path))
    assert status == 'warning' and 'image files in hidden folders, which are read, too' in text and '0-checkpoint.jpg' in text


def test_class_folders_refuse_what_is_no_class(tmp_path):
    write_folders(tmp_path)
    cfg = configure_folders(tmp_path, metainfo=dict(classes=('ash', 'birch', 'elm')))
    cfg.train_dataloader.dataset.type = 'mmparax.ClassFolders'
    with pytest.raises(ValueError, match="has the folder 'oak', which is none of the 3 classes"):
        build(cfg, 'train_dataloader')
    cfg.train_dataloader.dataset.metainfo = dict(classes=('a', 'b', 'c'))  # other names for the folders in their order
    assert build(cfg, 'train_dataloader').get_gt_labels().tolist() == [0, 0, 1, 1, 2, 2]
    cfg.train_dataloader.dataset.update(ann_file='list.txt')
    with pytest.raises(ValueError, match='ann_file is no option of ClassFolders'):
        build(cfg, 'train_dataloader')


EMPTY = {
    'other endings': (lambda folder: [path.rename(path.with_suffix('.webp')) for path in folder.rglob('*.jpg')],
                      ["6 files end in .webp", "its images may end in .bmp, .jpeg, .jpg"]),
    'no folders': (
        lambda folder:
        [path.rename(folder / 'train' / f'{path.parent.name}_{path.name}')
         for path in (folder / 'train').rglob('*.jpg')] + [(folder / 'train' / name).rmdir() for name in NAMES],
        ['has no folder, of which there must be one for each class', '6 files end in .jpg']),
    'empty folders': (lambda folder: [path.unlink() for path in (folder / 'train').rglob('*.jpg')], ["train' is empty"]),
}


@pytest.mark.parametrize('case', EMPTY)
def test_folders_without_images_say_why(case, tmp_path):
    change, parts = EMPTY[case]
    write_folders(tmp_path)
    change(tmp_path)
    status, text = examine(configure_folders(tmp_path))
    assert status == 'problem' and 'train_dataloader.dataset: 0 images; ' in text and all(part in text for part in parts), text


def test_an_image_that_cannot_be_read_is_named_in_class_folders(tmp_path):
    write_folders(tmp_path)
    (tmp_path / 'val/oak/1.jpg').write_bytes(b'')
    assert 'val_dataloader.dataset: 1 images that cannot be read: ' in examine(configure_folders(tmp_path))[1]


def test_a_list_of_images_has_its_labels_and_files_checked(tmp_path):
    write_folders(tmp_path)
    (tmp_path / 'list.txt').write_text('ash/0.jpg 0\noak/0.jpg 3\noak/7.jpg 2\n')
    status, text = examine(configure_folders(tmp_path, ann_file='list.txt', metainfo=dict(classes=NAMES)))
    assert status == 'problem' and '3 of 1 image(s); the classes are 0 to 2' in text and 'oak/7.jpg' in text


# ---- masks ----


def test_classes_in_another_order_and_number(tmp_path):
    cfg = configure(write(tmp_path))
    cfg.val_dataloader.dataset.metainfo = dict(classes=CLASSES[::-1])
    status, text = examine(cfg)
    assert status == 'problem' and "in another order: 'stem' where the training data have 'soil'" in text
    cfg.val_dataloader.dataset.metainfo = dict(classes=(*CLASSES, 'root'))
    status, text = examine(cfg)
    assert status == 'problem' and "val_dataloader.dataset has 4, train_dataloader.dataset has 3; in addition: 'root'" in text
    cfg.val_dataloader.dataset.metainfo = dict(classes=('a', 'b', 'c'))
    status, text = examine(cfg)
    assert status == 'warning' and "val_dataloader.dataset: 'a' where train_dataloader.dataset has 'soil'" in text


def test_another_reduce_zero_label(tmp_path):
    cfg = configure(write(tmp_path, values=(0, 1, 2, 3)), reduce_zero_label=True)
    cfg.val_dataloader.dataset.reduce_zero_label = False
    status, text = examine(cfg)
    assert status == 'problem' and 'val_dataloader.dataset: False, and train_dataloader.dataset: True' in text


# ---- evaluators, checkpoints ----


def test_an_evaluator_with_a_file_of_its_own(tmp_path):
    cfg = configure(write(tmp_path))
    content = dict(images=[dict(id=number, file_name=f'{number}.jpg') for number in range(3)], categories=[], annotations=[])
    paths = [tmp_path / name for name in ('own.json', 'copy.json', 'other.json')]
    for path in paths:
        path.write_text(json.dumps({**content, 'images': content['images'][:1]} if path.name == 'other.json' else content))
    from mmparax.checks.agreement import compare_evaluators
    cfg.val_dataloader.dataset.ann_file = 'own.json'
    for path, expected in zip(paths, ([], [True], [False])):
        cfg.val_evaluator = dict(type='CocoMetric', ann_file=str(path))
        problems = list(compare_evaluators(cfg, ['val_dataloader']))
        assert [problem.warning for problem in problems] == expected
    assert problems[0].items[0].endswith('2 of its images are not in that file')


@pytest.mark.parametrize('order, expected', [(CLASSES, 'ok'), (CLASSES[::-1], 'warning'), (('a', 'b'), 'ok')])
def test_the_order_of_the_classes_of_load_from(order, expected, tmp_path):
    cfg = configure(write(tmp_path))
    cfg.load_from = str(tmp_path / 'old.pth')
    torch.save(dict(state_dict={}, meta=dict(dataset_meta=dict(classes=order))), cfg.load_from)
    status, text = examine(cfg)
    assert status == expected
    assert expected == 'ok' or "class 0 is 'stem' there, and 'soil' in the data" in text


def test_data_sets_too_large_to_be_built_are_compared_by_their_names(tmp_path, monkeypatch):
    write_scenes(tmp_path, 2, 2, size=(64, 64), progress=False)
    cfg = Config(
        dict(move_scenes(Config.fromfile(CONFIGS / 'scenes_coco_instance_128x128.py').to_dict(), tmp_path),
             default_scope='mmdet'))
    monkeypatch.setattr('mmparax.checks.built.LARGE', 0)
    assert examine(cfg)[0] == 'ok'
    names = list(cfg.train_dataloader.dataset.metainfo.classes)
    torch.save(dict(meta=dict(dataset_meta=dict(classes=names[::-1])), state_dict={}), tmp_path / 'start.pth')
    cfg.load_from = str(tmp_path / 'start.pth')
    status, text = examine(cfg)
    assert status == 'warning' and f'class 0 is {names[-1]!r} there, and {names[0]!r} in the data' in text
    cfg.load_from = None
    path = tmp_path / cfg.val_dataloader.dataset.ann_file
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, 'categories': content['categories'][::-1]}))
    for loader in LOADERS[1:]:
        cfg[loader].dataset.metainfo = dict(classes=names[::-1])
    status, text = examine(cfg)
    assert status == 'problem' and 'with other classes than the training data: val_dataloader.dataset has' in text


def test_data_that_nobody_trains_on_are_not_called_training_data(tmp_path):
    cfg = configure(write(tmp_path))
    cfg.train_dataloader.dataset.type = 'AbsentDataset'
    cfg.test_dataloader.dataset.metainfo = dict(classes=CLASSES[::-1])
    texts = [problem.summarize() for entry in scan_datasets(cfg, LOADERS) for problem in entry.problems]
    assert any('other classes than val_dataloader.dataset: test_dataloader.dataset has' in text for text in texts)
    assert not any('the training data' in text for text in texts)
