"""Logs of training: resumed parts, epochs, damage."""
import re

import pytest

from helpers.reported import FIRST, SECOND, TEST, make_entries, write_log
from mmparax.report.logs import read_curves


def test_resumed_parts_are_one_curve(tmp_path):
    """The second part began at the checkpoint of iteration 20; what the first one did after it does not count."""
    first = [*make_entries(2), dict(mIoU=10., time=1., step=20), *make_entries(2, 3, loss=9.)]
    second = [*make_entries(2, 3), dict(mIoU=12., time=1., step=40)]
    files = [write_log(tmp_path, session, entries) / 'scalars.json' for session, entries in ((FIRST, first), (SECOND, second))]
    curves = read_curves(files)
    assert curves.get_series('loss') == ([10, 20, 30, 40], [3., 1.5, 1., 0.75])
    assert curves.get_metrics() == {'mIoU': ([20, 40], [10., 12.])} and not curves.notes
    restarted = read_curves([files[0], write_log(tmp_path, TEST, make_entries(2, loss=8.)) / 'scalars.json'])
    assert restarted.get_series('loss') == ([10, 20], [8., 4.]) and restarted.val == []


def test_validations_of_epochs_are_counted_in_epochs(tmp_path):
    entries = [
        *make_entries(2, epoch=1), {'coco/bbox_mAP': 0.1, 'time': 1., 'step': 1}, *make_entries(2, 3, epoch=2),
        {'coco/bbox_mAP': 0.2, 'time': 1., 'step': 2}
    ]
    curves = read_curves([write_log(tmp_path, FIRST, entries) / 'scalars.json'])
    assert curves.by_epoch and curves.get_metrics() == {'AP^b': ([1, 2], [10., 20.])}
    resumed = write_log(tmp_path, SECOND, make_entries(2, 3, epoch=2)) / 'scalars.json'
    assert read_curves([tmp_path / FIRST / 'vis_data' / 'scalars.json', resumed]).get_metrics() == {'AP^b': ([1], [10.])}


@pytest.mark.parametrize(
    'damage, note', {
        'half a line': (lambda text: text[:-40], 'The last line of .*scalars.json is half-written'),
        'a broken line': (lambda text: text.replace('{', 'x', 1), '1 of 5 lines .* cannot be read, the first is line 1'),
        'nan': (lambda text: text.replace('0.75', 'NaN'), 'The loss is not finite at 1 of 4 logged steps'),
    }.values(), ids=('half a line', 'a broken line', 'nan'))
def test_damaged_logs_are_read_as_far_as_they_go(tmp_path, damage, note):
    path = write_log(tmp_path, FIRST, make_entries(4)) / 'scalars.json'
    path.write_text(damage(path.read_text()))
    curves = read_curves([path])
    assert len(curves.get_series('loss')[0]) == 3
    assert re.match(note, curves.notes[0]) and str(tmp_path) not in curves.notes[0]
