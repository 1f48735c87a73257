"""``--scan`` of the doctor and of a training, and that both refuse data of the same kinds."""
import json
from pathlib import Path

import pytest

from helpers.mask_data import write
from helpers.processes import fork

ROOT = Path(__file__).parents[2]
BASE = ROOT / 'configs' / 'quickstart' / 'upernet_swin-mini_adaroute_1xb8-500_scenes-128x128.py'
CONFIG = """
_base_ = {base!r}
metainfo = dict(_delete_=True, classes=('soil', 'leaf', 'stem'), palette=[[90, 60, 30], [0, 200, 0], [200, 0, 0]])


def load(part):
    return dict(num_workers=0, persistent_workers=False, batch_size=2, dataset=dict(
        data_root='data', metainfo=metainfo, reduce_zero_label=False,
        data_prefix=dict(img_path='images/' + part, seg_map_path='masks/' + part)))


train_dataloader, val_dataloader = load('train'), load('val')
test_dataloader = val_dataloader
loss = dict(class_weight=None)
model = dict(decode_head=dict(num_classes=3, loss_decode=loss), auxiliary_head=dict(num_classes=3, loss_decode=loss))
train_cfg = dict(max_iters=1, val_interval=1)
del load, loss
"""


@pytest.fixture
def work(tmp_path):
    """Make a working folder with data and a config, and a function that calls a script in it."""

    def prepare(values):
        write(tmp_path / 'data', values=values)
        (tmp_path / 'mine.py').write_text(CONFIG.format(base=str(BASE)))
        return lambda script, *arguments: fork(ROOT / 'tools' / script, *arguments, cwd=tmp_path)

    return prepare


def test_sound_data(work, tmp_path):
    call = work((0, 1, 2))
    done = call('doctor.py', 'mine.py', '--scan', '--json', 'scan.json')
    assert done.returncode == 0 and done.stdout.strip().endswith('No problem in the data.'), done.stdout
    assert [entry['read'] for entry in json.loads((tmp_path / 'scan.json').read_text())['datasets']] == [6, 3]
    done = call('train.py', 'mine.py', '--scan', 'all')
    assert done.returncode == 0 and 'mIoU' in done.stdout and '3 of 3' in done.stdout, done.stdout[-2000:]


def test_data_that_teach_nothing(work, tmp_path):
    call = work((0, 255))
    sentence = 'only one class beside ignore (50 % ignored)'
    done = call('doctor.py', 'mine.py')
    assert done.returncode == 1 and sentence in done.stdout and 'NOT READY: 1 problem(s): data.' in done.stdout, done.stdout
    done = call('doctor.py', 'mine.py', '--scan', 'all')
    assert done.returncode == 1 and done.stdout.strip().endswith('2 problem(s) in the data.'), done.stdout
    for more in ([], ['--scan', '3'], ['--no-validate']):
        done = call('train.py', 'mine.py', *more)
        assert done.returncode == 1 and sentence in done.stdout and 'Traceback' not in done.stdout, done.stdout
    assert not list((tmp_path / 'work_dirs').rglob('*.log'))


@pytest.mark.parametrize('arguments, message', [
    (['--scan', 'some'], "'some' is neither a number of images nor 'all'"),
    (['--scan', '0'], "'0' is neither a number of images nor 'all'"),
    (['--json', 'scan.json'], '--json writes what --scan finds: give both'),
    (['--scan', '--workers', '-1'], '--workers=-1 is not allowed'),
])
def test_wrong_options(arguments, message, work):
    done = work((0, 1, 2))('doctor.py', 'mine.py', *arguments)
    assert done.returncode != 0 and message in done.stdout and 'Traceback' not in done.stdout, done.stdout


def test_a_scan_is_not_for_several_processes(work):
    done = work((0, 1, 2))('train.py', 'mine.py', '--scan', 'all', '--launcher', 'pytorch')
    assert done.returncode == 1 and 'Traceback' not in done.stdout, done.stdout
    assert 'Scan once with tools/doctor.py CONFIG --scan, then start the processes without it.' in done.stdout
