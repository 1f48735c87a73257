"""Predictions of the runs for the same images."""
import re

import pytest

from helpers.reported import add_checkpoint, make_page, make_run
from helpers.tasks import TASKS
from mmparax.report.runs import gather_runs
from mmparax.report.samples import sample_predictions


@pytest.mark.parametrize('task',
                         [pytest.param(task, marks=[pytest.mark.full] if task != 'segmentation' else []) for task in TASKS])
def test_predictions_of_every_task(task, tmp_path, scenes):
    folder = make_run(tmp_path / 'run', scenes, task=task)
    add_checkpoint(folder)
    run, = gather_runs([str(folder)])
    gallery, = sample_predictions([run], 2)
    assert gallery.notes == {} and len(gallery.names) == len(gallery.truths) == len(gallery.predictions['run']) == 2
    for sample in [*gallery.truths, *gallery.predictions['run']]:
        assert sample.text if task == 'classification' else sample.picture.shape[0] in (96, 288)
    assert bool(gallery.classes) == (task in ('segmentation', 'panoptic'))
    shown = gallery.predictions['run'][0].text if task == 'classification' else 'prediction of AdaRoute'
    assert shown in make_page(folder, num_images=1)


def test_why_there_are_no_predictions(tmp_path, scenes, three):
    lost = make_run(tmp_path / 'lost', tmp_path / 'absent', 'Frozen')
    (lost / 'iter_40.pth').write_bytes(b'broken')
    notes = {
        name: text for gallery in sample_predictions(gather_runs([str(three[0]), str(lost)]), 1)
        for name, text in gallery.notes.items()
    }
    assert [re.sub(r'\(.*', '', text) for text in notes.values()] == ['its checkpoint is not there', 'its data are not there ']
