"""Runs that several tests report on."""
import pytest

from helpers.reported import make_entries, make_run
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.report.runs import FULL


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    path = tmp_path_factory.mktemp('data') / 'scenes'
    write_scenes(path, 2, 5, size=(96, 96), progress=False)
    return path


@pytest.fixture(scope='session')
def three(tmp_path_factory, scenes):
    """Two seeds of AdaRoute, one run of the frozen base and one of full fine-tuning."""
    root = tmp_path_factory.mktemp('three')
    return [
        make_run(root / 'a0', scenes, seed=0, miou=20.),
        make_run(root / 'f0', scenes, 'Frozen', miou=19.),
        make_run(root / 'a1', scenes, seed=1, miou=22., entries=make_entries(4, loss=5.)),
        make_run(root / 'full', scenes, FULL, miou=15.)
    ]
