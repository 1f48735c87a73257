"""Missing files and classes that do not match are found before anything is built."""
import json
import re

import pytest
from mmengine.config import Config

from helpers.tasks import DATASETS, TASKS, move_scenes
from mmparax.checks.data import check_datasets, read_categories
from mmparax.config.query import find_missing_downloads
from mmparax.datasets.synthetic.writers import write_scenes

LOADERS = ['train_dataloader', 'val_dataloader', 'test_dataloader']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'scenes'
    write_scenes(path, 2, 1, size=(64, 64), progress=False)
    return path


def config(task, scenes, changes=()):
    _, scope, datasets, _ = TASKS[task]
    cfg = Config(dict(move_scenes(Config.fromfile(DATASETS / f'{datasets}.py').to_dict(), scenes), default_scope=scope))
    cfg.merge_from_dict(dict(changes))
    return cfg


@pytest.mark.parametrize('task', TASKS)
def test_complete_data_pass(task, scenes):
    check_datasets(config(task, scenes), LOADERS)


ABSENT = {
    'image folder': ('segmentation', {'train_dataloader.dataset.data_prefix.img_path': 'x'},
                     'train_dataloader.dataset.data_prefix.img_path'),
    'images of objects': ('detection', {'val_dataloader.dataset.data_prefix.img': 'x'}, 'val_dataloader.dataset.data_prefix.img'),
    'annotation file': ('detection', {'train_dataloader.dataset.ann_file': 'x.json'}, 'train_dataloader.dataset.ann_file'),
    'panoptic maps': ('panoptic', {'train_dataloader.dataset.data_prefix.seg': 'x'}, 'train_dataloader.dataset.data_prefix.seg'),
    'file of an evaluator': ('detection', {'val_evaluator.ann_file': 'x.json'}, 'val_evaluator.ann_file'),
    'maps of an evaluator': ('panoptic', {'test_evaluator.seg_prefix': 'x'}, 'test_evaluator.seg_prefix'),
    'crops': ('classification', {'test_dataloader.dataset.data_prefix': 'x'}, 'test_dataloader.dataset.data_prefix'),
}


@pytest.mark.parametrize('case', ABSENT)
def test_what_is_absent_is_named(case, scenes):
    task, changes, parameter = ABSENT[case]
    with pytest.raises(FileNotFoundError, match=rf"^{parameter}='.*x.*' does not exist \(looked in .*\)\. Put the data there or"):
        check_datasets(config(task, scenes, changes), LOADERS)


def test_evaluators_in_a_list_and_data_sets_in_wrappers_are_looked_at(scenes):
    cfg = config('panoptic', scenes)
    cfg.val_evaluator = [cfg.val_evaluator, dict(type='CocoMetric', ann_file='absent.json')]
    with pytest.raises(FileNotFoundError, match="val_evaluator.1.ann_file='absent.json'"):
        check_datasets(cfg, LOADERS)
    cfg = config('detection', scenes)
    inner = dict(cfg.train_dataloader.dataset, ann_file='absent.json')
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner]))
    with pytest.raises(FileNotFoundError, match="train_dataloader.dataset.ann_file='.*absent.json'"):
        check_datasets(cfg, LOADERS)


@pytest.mark.parametrize('kind', ['CIFAR10', 'CIFAR100', 'mmparax.SVHN'])
def test_data_that_download_themselves_need_not_be_there(kind, tmp_path):
    root = tmp_path / 'absent'

    def cfg(**options):
        dataset = dict(type=kind, data_root=str(root), split='train', pipeline=[], **options)
        return Config(
            dict(default_scope='mmpretrain', train_dataloader=dict(dataset=dict(type='RepeatDataset', times=2, dataset=dataset))))

    for options in ({}, dict(download=True)):
        check_datasets(cfg(**options), LOADERS)
        assert find_missing_downloads(cfg(**options), LOADERS) == [str(root)]
    with pytest.raises(FileNotFoundError, match='train_dataloader.dataset.data_root='):
        check_datasets(cfg(download=False), LOADERS)
    root.mkdir()
    (root / 'file').touch()
    assert find_missing_downloads(cfg(), LOADERS) == []


DIGITS = [f'digit {number}' for number in range(10)]
SURFACES = ['wood', 'brick', 'grass', 'water', 'sand']
NAMES = {
    'unknown': ('detection', dict(classes=[*DIGITS, 'car']),
                r"^train_dataloader.dataset.metainfo.classes has 1 \('car'\), which the annotation file '.*training.json' has "
                r"not; it has 10 \('digit 0', .*Set train_dataloader.dataset.metainfo=dict\(classes=...\)"),
    'the toolbox\'s own': ('detection', None, r"has 80 \('person', 'bicycle', 'car', ...\), which the annotation file"),
    'another order': ('detection', dict(classes=[*DIGITS[::-1]]), "'digit 0' in the file would be called 'digit 9'"),
    'a text': ('detection', dict(classes='digit'), r"metainfo.classes='digit' is not allowed.*write \('digit', \), with the"),
    'one name for two': ('detection', dict(classes=[*DIGITS[:9], 'digit 0']),
                         r"metainfo.classes=.*is not allowed: 1 \('digit 0'\) stand in it more than once. Give each class"),
    'too few for panoptic maps': ('panoptic', dict(classes=DIGITS, thing_classes=DIGITS, stuff_classes=[]),
                                  r"has 5 \('wood', 'brick', 'grass', ...\), which .* has not, and panoptic maps need every"),
    'unknown folders': ('classification', dict(classes=[*DIGITS, *SURFACES, 'car']),
                        r"has 16 \(.*as folders.*one for each class"),
    'folders in another order': ('classification', dict(classes=[*DIGITS, *SURFACES]),
                                 "the images in 'brick' would be called 'digit 0'"),
}


@pytest.mark.parametrize('case', NAMES)
def test_class_names_that_do_not_match_are_named(case, scenes):
    task, metainfo, message = NAMES[case]
    cfg = config(task, scenes)
    cfg.train_dataloader.dataset.metainfo = metainfo
    with pytest.raises(ValueError, match=message) as raised:
        check_datasets(cfg, LOADERS)
    assert len(str(raised.value).splitlines()) == 1


def test_the_file_of_an_evaluator_has_the_classes_too(scenes, tmp_path):
    cfg = config('detection', scenes)
    other = tmp_path / 'other.json'
    other.write_text(json.dumps(dict(images=[], annotations=[], categories=[dict(id=1, name='digit 0')])))
    cfg.val_evaluator.ann_file = str(other)
    with pytest.raises(ValueError, match=r"has 9 \('digit 1', .* which the annotation file '.*other.json' has not"):
        check_datasets(cfg, LOADERS)


def test_names_that_are_not_wrong_pass(scenes):
    """A part of the categories of objects; folders whose names are not those of the classes at all."""
    cfg = config('detection', scenes)
    cfg.train_dataloader.dataset.metainfo = cfg.val_dataloader.dataset.metainfo = dict(classes=DIGITS[2:5])
    check_datasets(cfg, LOADERS)
    cfg = config('classification', scenes)
    cfg.train_dataloader.dataset.metainfo = dict(classes=[f'kind {number}' for number in range(15)])
    check_datasets(cfg, LOADERS)
    del cfg.train_dataloader.dataset['metainfo']
    check_datasets(cfg, LOADERS)


def test_label_maps_of_a_toolbox_have_its_classes(scenes):
    cfg = config('segmentation', scenes)
    cfg.train_dataloader.dataset.update(type='ADE20KDataset')
    with pytest.raises(ValueError, match=r"has 12 \('digit 0', .*which ADE20KDataset.*Use type='BaseSegDataset'"):
        check_datasets(cfg, LOADERS)


CONTENTS = {
    'at the end': '{"annotations": [{"caption": "a \\"categories\\": [1]"}], "categories": [{"name": "a [b]"}, {"name": "c"}]}',
    'at the start': '{"categories" : [{"name": "a [b]", "color": [1, 2]}, {"name": "c"}], "images": [' + '0, ' * 50000 + '0]}',
    'other lists': '{"categories": [{"name": "a [b]"}, {"name": "c"}], "images": [{"categories": [1, 2]}, {"categories": 3}]}',
    'long': '{"categories": [{"name": "a [b]"}, {"name": "c", "text": "' + 'é' * 100000 + '"}]}',
}


@pytest.mark.parametrize('case', CONTENTS)
def test_categories_are_found_wherever_they_are(case, tmp_path):
    path = tmp_path / 'file.json'
    path.write_text(CONTENTS[case], encoding='utf-8')
    assert read_categories(str(path)) == ['a [b]', 'c']


@pytest.mark.parametrize(
    'content',
    ['', '{}', '[1, 2]', '{"categories": [', '{"categories": []}', '{"categories": [{"id": 1}]}', 'no json "categories"'])
def test_a_file_without_categories_is_refused(content, tmp_path):
    path = tmp_path / 'file.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=rf'{re.escape(str(path))}.*has no list "categories" with names'):
        read_categories(str(path))
