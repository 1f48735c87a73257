"""The scripts as a user calls them: train, resume, evaluate, draw; wrong input ends with one sentence."""
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmparax.datasets.scenes import write_ade20k

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs' / 'examples' / 'upernet_swin-mini_adaroute_1xb8-500_scenes-128x128.py')


def call(script, *arguments, cwd):
    return subprocess.run([sys.executable, str(ROOT / 'tools' / script), *map(str, arguments)], cwd=cwd, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A working folder with scenes where the configs look for them."""
    path = tmp_path_factory.mktemp('work')
    write_ade20k(path / 'data' / 'scenes', 8, 3, size=(64, 64), progress=False)
    return path


SHORT = ['train_dataloader.batch_size=2', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
         'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False', 'val_dataloader.batch_size=1',
         'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False', 'default_hooks.logger.interval=1',
         'train_cfg.val_interval=3', 'default_hooks.checkpoint.interval=3', 'randomness.seed=0']


@pytest.fixture(scope='module')
def trained(folder):
    """A run of three iterations, with what it printed."""
    done = call('train.py', CONFIG, '--work-dir', 'run', '--amp', '--auto-scale-lr', '--cfg-options', *SHORT,
                'train_cfg.max_iters=3', cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_training_says_what_trains(trained):
    shares = {label: float(share) for label, share in re.findall(r'│ ([\w, ]+?) +│ +[\d,]* *│ +[\d,]+ │ +([\d.]+)% │', trained)}
    assert 0 < shares['trained in backbone'] < 10
    assert shares['backbone, frozen'] > 90 and shares['adapters'] > 0 and shares['expert centers'] > 0
    assert 'Effective batch size 2 = 1 process(es) x 2 images x 1 accumulated step(s)' in trained
    assert 'the recipe is for 8, the learning rate was scaled' in trained
    assert 'Learning rate after warm-up: 0.001.' in trained
    assert 'Mixed precision needs a GPU' in trained
    assert len(re.findall(r'Iter\(train\).*loss: [\d.]+', trained)) == 3 and 'mIoU' in trained


def test_resume_goes_on(trained, folder):
    done = call('train.py', CONFIG, '--work-dir', 'run', '--resume', '--cfg-options', *SHORT, 'train_cfg.max_iters=5',
                cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.findall(r'Iter\(train\) \[(\d)/5\]', done.stdout) == ['4', '5']
    assert 'resumed epoch: 0, iter: 3' in done.stdout
    assert (folder / 'run' / 'last_checkpoint').read_text().endswith('iter_5.pth')


def test_evaluation_writes_predictions_and_pictures(trained, folder):
    checkpoint = next((folder / 'run').glob('iter_*.pth'))
    done = call('test.py', CONFIG, checkpoint, '--work-dir', 'test', '--out', 'predictions', '--show-dir', 'pictures',
                '--cfg-options', *SHORT, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r'mIoU: +[\d.]+', done.stdout)
    masks = sorted((folder / 'predictions').glob('*.png'))
    assert [mask.name for mask in masks] == [f'scene_{index:05d}.png' for index in range(3)]
    for mask in masks:
        labels = np.asarray(Image.open(mask))
        assert labels.shape == (64, 64) and 1 <= labels.min() and labels.max() <= 15
    assert len(list((folder).rglob('pictures/**/test_scene_*.png'))) == 3


ERRORS = {
    'no config': (('train.py', 'absent.py'), "config 'absent.py' does not exist"),
    'no data': (('train.py', CONFIG, '--cfg-options', 'train_dataloader.dataset.data_root=nowhere'),
                "train_dataloader.dataset.data_root='nowhere' does not exist"),
    'no split': (('train.py', CONFIG, '--cfg-options', 'val_dataloader.dataset.data_prefix.img_path=images/absent'),
                 "val_dataloader.dataset.data_prefix.img_path='data/scenes/images/absent' does not exist"),
    'no checkpoint': (('test.py', CONFIG, 'absent.pth'), "checkpoint 'absent.pth' does not exist"),
    'no resume file': (('train.py', CONFIG, '--resume', 'absent.pth'), "checkpoint 'absent.pth' does not exist"),
    'no base config': (('train.py', 'stray.py'), "'stray.py' could not be read"),
    'no scale': (('train.py', CONFIG, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None'), 'auto_scale_lr=dict'),
    'option without effect': (('train.py', CONFIG, '--cfg-options', 'adapter.hidden_dim=3'),
                              'model.backbone.adapter.hidden_dim'),
    'bad adapter option': (('train.py', CONFIG, '--cfg-options', 'model.backbone.adapter.hidden_dim=0'), 'hidden_dim=0'),
    'no base': (('train.py', CONFIG, '--cfg-options', 'model.backbone.base_checkpoint=absent.pth'),
                "base_checkpoint='absent.pth' does not exist"),
}


def call_in_process(script, *arguments):
    """Run a script in this process, which has the toolboxes imported already; return its exit code and message."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [script, *arguments])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')
    return stopped.value.code


@pytest.mark.parametrize('case', ERRORS)
def test_wrong_input_is_one_sentence(case, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / 'stray.py').write_text("_base_ = './absent.py'")
    arguments, message = ERRORS[case]
    code = call_in_process(*arguments)
    assert isinstance(code, str) and message in code  # a text as exit code is printed to stderr, and the status is 1
    assert len(code.splitlines()) == 1


@pytest.mark.parametrize('script', ['train.py', 'test.py', 'quickstart.py', 'pretrain_small_base.py',
                                    'dataset_tools/make_scenes.py', 'setup_env.py'])
def test_help(script, capsys):
    assert call_in_process(script, '--help') == 0
    assert 'usage:' in capsys.readouterr().out


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_shell_scripts_say_how_to_call_them(script):
    done = subprocess.run([str(ROOT / 'tools' / script)], text=True, capture_output=True)
    assert done.returncode == 2 and f'{script} CONFIG' in done.stderr
