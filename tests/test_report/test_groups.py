"""Groups of runs: labels, differences, the best of them."""
import json

import pytest

from helpers.reported import TEST, Page, list_rows, make_page, make_run
from mmparax.report.groups import find_best, find_differences, group_runs, shorten_paths
from mmparax.report.runs import FULL, gather_runs


def group_folders(folders):
    return group_runs(gather_runs(list(map(str, folders))))


def test_runs_that_differ_in_the_seed_are_one_group(three):
    groups = group_folders(three)
    assert [(found.label, [run.name for run in found.runs]) for found in groups] == [('AdaRoute', ['a0', 'a1']),
                                                                                     ('Frozen', ['f0']), (FULL, ['full'])]
    assert groups[0].metrics == {'mIoU': [20., 22.]} and find_best(groups, 'mIoU') is groups[0]
    assert find_differences(groups) == {
        'model.backbone.adapter.hidden_dim': ['4', 'not set', 'not set'],
        'model.backbone.adapter.type': ['mmparax.AdaRoute', 'mmparax.Frozen',
                                        'not set'], 'model.backbone.adapter': ['not set', 'not set', 'None']
    }


def test_groups_of_one_method_are_told_apart(tmp_path, scenes):
    changes = {'model.backbone.adapter.hidden_dim': 8}, {'model.backbone.arch.embed_dims': 16}, {}
    groups = group_folders([make_run(tmp_path / name, scenes, **change) for name, change in zip('abc', changes)])
    assert len({found.label for found in groups}) == 3
    assert [found.label for found in groups][1] == 'AdaRoute, Swin (width 16, depth 2-2-4-2)'


def test_the_best_is_marked_only_among_what_was_evaluated_alike(tmp_path, scenes, three):
    other = make_run(tmp_path / 'other', scenes, 'Frozen', miou=90.,
                     **{'test_dataloader.dataset.data_prefix.img_path': 'images/training'})
    assert find_best(group_folders([three[0], other]), 'mIoU') is None
    page = make_page(three[0], other)
    assert '★' not in page and 'No best value is marked' in page
    assert '★' in make_page(*three)


def test_runs_of_two_tasks_have_columns_of_their_own(tmp_path, scenes, three):
    detector = make_run(tmp_path / 'detector', scenes, miou=None, **{'test_evaluator.type': 'CocoMetric'})
    (detector / TEST).mkdir()
    (detector / TEST / f'{TEST}.json').write_text(json.dumps({'coco/bbox_mAP': 0.087, 'coco/segm_mAP': 0.08}))
    header, first, second = list_rows(Page(make_page(three[0], detector)))[:3]
    place = header.index('mIoU')
    assert [row[place:place + 3] for row in (header, first, second)] == [['mIoU', 'AP^b', 'AP^m'], ['20.0', '–', '–'],
                                                                         ['–', '8.7', '8.0']]


@pytest.mark.parametrize('text, shown',
                         [("the file '/home/me/data/x.png' is missing", "the file '…/x.png' is missing"),
                          ('(/a/b: no)', '(…/b: no)'),
                          ('mmparax://x/y.safetensors and work_dirs/a/b', 'mmparax://x/y.safetensors and work_dirs/a/b')])
def test_sentences_name_no_folders_of_the_machine(text, shown):
    assert shorten_paths(text) == shown
