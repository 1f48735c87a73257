"""On which images an evaluation was."""
import json

import pytest
from mmengine.config import Config

from mmparax.inference.evaluation import (
    FILE,
    describe_data,
    describe_evaluation,
    find_first_difference,
    format_images,
    name_split,
    record_evaluation,
)

DATA = dict(type='BaseSegDataset', data_root='data/x/', data_prefix=dict(img_path='images/val', seg_map_path='masks/val'))


def make(evaluator=(), **changes):
    return Config(
        dict(test_dataloader=dict(batch_size=1, dataset={**DATA, **changes}), test_evaluator=[dict(type='IoUMetric'),
                                                                                              *evaluator]))


@pytest.mark.parametrize('changes, difference', [
    ({}, ''),
    (dict(pipeline=[dict(type='X')], metainfo=dict(classes=('a', )), lazy_init=True, indices=None), ''),
    (dict(data_root='data/x'), ''),
    (dict(indices=3), 'dataset.indices=3 instead of None'),
    (dict(data_root='data/y'), "dataset.data_root='data/y' instead of 'data/x'"),
    (dict(data_prefix=dict(img_path='images/test')), "dataset.data_prefix.img_path='images/test' instead of 'images/val'"),
    (dict(ann_file='some.txt'), "dataset.ann_file='some.txt' instead of None"),
])
def test_what_is_other_data(changes, difference):
    assert find_first_difference(describe_data(make(**changes)), describe_data(make())) == difference


def test_paths_of_one_place_are_the_same_data(tmp_path, monkeypatch):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'data')
    monkeypatch.chdir(tmp_path)
    about = describe_evaluation(make(data_root=str(tmp_path / 'data' / 'x')), [0], 'x.pth')
    monkeypatch.chdir('/')  # a report is made elsewhere
    for root in ('data/x', './data/x/', 'data/../data/x', 'link/x', str(tmp_path / 'link' / 'x')):
        assert find_first_difference(about['data'], describe_data(make(data_root=root)), about['folder']) == ''
    other = find_first_difference(about['data'], describe_data(make(data_root='x')), about['folder'])
    assert other == f"dataset.data_root={str(tmp_path / 'data' / 'x')!r} instead of 'x'"


def test_files_of_evaluators_are_data_and_their_outputs_are_not():
    plain = describe_data(make([dict(type='CocoMetric', ann_file='a.json')]))
    written = make(
        [dict(type='CocoMetric', ann_file='a.json', outfile_prefix='out'),
         dict(type='DumpResults', out_file_path='x')])
    assert describe_data(written) == plain
    other = describe_data(make([dict(type='CocoMetric', ann_file='b.json')]))
    assert find_first_difference(other, plain) == "evaluator.1.ann_file='b.json' instead of 'a.json'"


@pytest.mark.parametrize('dataset, split', [
    (DATA, 'val'),
    (dict(split='test'), 'test'),
    (dict(data_prefix=dict(img='val2017/'), ann_file='annotations/instances_val2017.json'), 'val2017'),
    (dict(data_prefix=dict(img='JPEGImages'), ann_file='lists/test.txt'), 'test'),
    (dict(data_prefix='validation'), 'validation'),
    ({}, ''),
    (dict(type='ConcatDataset', datasets=[dict(split='b'), dict(split='a')]), 'b + a'),
])
def test_splits_have_the_names_of_their_folders(dataset, split):
    assert name_split(dict(test_dataloader=dict(dataset=dataset))) == split


def test_an_evaluation_is_written_down(tmp_path):
    about = describe_evaluation(make(indices=2), [0, 0], 'x.pth', tta=True)
    assert format_images(about) == '2 images of val (a subset, test-time augmentation)'
    assert format_images(describe_evaluation(make(), [0], 'x.pth')) == '1 image of val'
    record_evaluation(tmp_path, dict(mIoU=float('nan'), aAcc=3.), about)
    found = json.loads((tmp_path / FILE).read_text())
    assert found['images'] == 2 and found['subset'] and found['checkpoint'].endswith('/x.pth') and found['data'] == about['data']
