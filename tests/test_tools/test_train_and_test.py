"""The scripts as a user calls them: train, resume, evaluate, draw; wrong input ends with one sentence."""
import copy
import fcntl
import os
import random
import re
import runpy
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.processes import fork, free_port, run
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.weights.reader import read_weights

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs' / 'quickstart' / 'upernet_swin-mini_adaroute_1xb8-500_scenes-128x128.py')


def call(script, *arguments, **options):
    """Run a script to its end (test_quickstart.py starts it in a fresh process)."""
    return fork(ROOT / 'tools' / script, *arguments, **options)


def call_shell(script, *arguments, cwd, **environment):
    return run([ROOT / 'tools' / script, *arguments], cwd, **environment)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A working folder with scenes where the configs look for them."""
    path = tmp_path_factory.mktemp('work')
    write_scenes(path / 'data' / 'scenes', 8, 3, size=(64, 64), progress=False)
    return path


SHORT = [
    'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False', 'val_dataloader.batch_size=1',
    'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False', 'default_hooks.logger.interval=1',
    'train_cfg.val_interval=3', 'default_hooks.checkpoint.interval=3', 'randomness.seed=0'
]


@pytest.fixture(scope='module')
def trained(folder):
    """A run of three iterations, with what it printed."""
    done = call('train.py', CONFIG, '--work-dir', 'run', '--amp', '--auto-scale-lr', '--cfg-options', *SHORT,
                'train_cfg.max_iters=3', cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_training_says_what_trains(trained):
    shares = {label: float(share) for label, share in re.findall(r'│ ([\w, ]+?) +│ +[\d,]* *│ +[\d,]+ │ +([\d.]+)% │', trained)}
    assert 0 < shares['trainable in backbone'] < 10
    assert shares['backbone, frozen'] > 90 and shares['adapters'] > 0 and shares['expert centers'] > 0
    assert 'Effective batch size 2 = 1 process(es) x 2 images x 1 accumulated step(s)' in trained
    assert 'the recipe is for 8, the learning rate was scaled' in trained
    assert 'Learning rate after warm-up: 0.001.' in trained
    assert 'Mixed precision needs a GPU' in trained
    assert len(re.findall(r'Iter\(train\).*loss: [\d.]+', trained)) == 3 and 'mIoU' in trained


def test_the_first_training_line_comes_soon(trained, folder):
    """Environment, config and hooks are in the log file."""
    lines = trained.splitlines()
    first = next(number for number, line in enumerate(lines) if 'Iter(train)' in line)
    assert first < 30, lines[:first]
    log, = (path for path in (folder / 'run').glob('*/*.log') if 'Iter(train) [1/3]' in path.read_text())
    assert f'Environment, config and hooks: {log}' in trained
    for text in ('System environment:', 'Config:', 'Hooks will be executed'):
        assert text in log.read_text() and text not in trained


def test_resume_goes_on(trained, folder):
    done = call('train.py', CONFIG, '--work-dir', 'run', '--resume', '--cfg-options', *SHORT, 'train_cfg.max_iters=5', cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.findall(r'Iter\(train\) \[(\d)/5\]', done.stdout) == ['4', '5']
    assert 'resumed epoch: 0, iter: 3' in done.stdout
    assert (folder / 'run' / 'last_checkpoint').read_text().endswith('iter_5.pth')


def test_evaluation_writes_predictions_and_pictures(trained, folder):
    checkpoint = next((folder / 'run').glob('iter_*.pth'))
    done = call('test.py', CONFIG, checkpoint, '--work-dir', 'test', '--out-dir', 'predictions', '--show-dir', 'pictures',
                '--cfg-options', *SHORT, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r'mIoU: +[\d.]+', done.stdout)
    masks = sorted((folder / 'predictions').glob('*.png'))
    assert [mask.name for mask in masks] == [f'scene_{index:05d}.png' for index in range(3)]
    for mask in masks:
        labels = np.asarray(Image.open(mask))
        assert labels.shape == (64, 64) and 1 <= labels.min() and labels.max() <= 15
    assert sorted(path.name for path in (folder / 'pictures').iterdir()) == [mask.name for mask in masks]
    assert 'Results in percent on 3 images of validation:' in done.stdout


ERRORS = {
    'no config': (('train.py', 'absent.py'), "config 'absent.py' does not exist"),
    'no data': (('train.py', CONFIG, '--cfg-options', 'train_dataloader.dataset.data_root=nowhere'),
                "train_dataloader.dataset.data_root='nowhere' does not exist"),
    'no split': (('train.py', CONFIG, '--cfg-options', 'val_dataloader.dataset.data_prefix.img_path=images/absent'),
                 "val_dataloader.dataset.data_prefix.img_path='data/scenes/images/absent' does not exist"),
    'no checkpoint': (('test.py', CONFIG, 'absent.pth'), "checkpoint 'absent.pth' does not exist"),
    'no resume file': (('train.py', CONFIG, '--resume', 'absent.pth'), "checkpoint 'absent.pth' does not exist"),
    'no base config': (('train.py', 'stray.py'), "'stray.py' could not be read"),
    'predictions into a file': (('test.py', CONFIG, 'stray.py', '--out-dir', 'stray.py'),
                                "folder 'stray.py' cannot be written to: File exists. Choose another"),
    'pictures into a file': (('test.py', CONFIG, 'stray.py', '--show-dir', 'stray.py/x'),
                             "folder 'stray.py/x' cannot be written to: Not a directory. Choose another"),
    'a run into a file': (('test.py', CONFIG, 'stray.py', '--work-dir', 'stray.py'), "folder 'stray.py' cannot be written to"),
    'no scale': (('train.py', CONFIG, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None'), 'auto_scale_lr=dict'),
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


@pytest.fixture(scope='module')
def misfits(trained, folder):
    """Checkpoints that do not fit the run of the module, made from its own."""
    good = next((folder / 'run').glob('iter_*.pth'))
    content = torch.load(good, weights_only=False)
    torch.save({key: value for key, value in content.items() if key != 'optimizer'}, folder / 'best.pth')
    base = read_weights(ROOT / 'mmparax' / 'zoo' / 'swin_mini_glyphs.safetensors')
    weights = {**{f'backbone.{name}': value for name, value in base.items()}, **content['state_dict']}
    frozen = [name for name in weights if name.startswith('backbone.stages') and 'adapters' not in name and 'weight' in name]
    torch.save(dict(content, state_dict={**weights, frozen[0]: weights[frozen[0]] + 1}), folder / 'changed_base.pth')
    meta = copy.deepcopy(content['meta'])
    meta['mmparax']['fingerprint'] = '0' * 64
    torch.save(dict(content, meta=meta), folder / 'other_base.pth')
    torch.save(dict(content, state_dict={name: value for name, value in weights.items() if 'conv_seg' not in name}),
               folder / 'no_head.pth')
    torch.save({'model': {name[9:]: value for name, value in weights.items() if name in frozen}}, folder / 'base_file.pth')
    (folder / 'page.pth').write_text('<html>Sign in</html>')
    return good


REFUSED = {
    'resume without optimizer': (('train.py', '--resume', 'best.pth'), "'best.pth' is not a file to resume from: it has no "
                                 'optimizer'),
    'resume of a base': (('train.py', '--resume', 'base_file.pth'), "'base_file.pth' is not a file to resume from"),
    'load_from a base': (('train.py', '--cfg-options', 'load_from=base_file.pth'), 'Set model.backbone.base_checkpoint to it'),
    'test of a base': (('test.py', 'base_file.pth'), 'Give a checkpoint of a training run, such as iter_*.pth'),
    'changed base': (('test.py', 'changed_base.pth'), 'was trained on another base'),
    'resume on another base': (('train.py', '--resume', 'other_base.pth'), 'its fingerprint is 000000000000'),
    'test on another base': (('test.py', 'other_base.pth'), 'its fingerprint is 000000000000'),
    'other width': (('test.py', 'GOOD', '--cfg-options', 'model.backbone.adapter.hidden_dim=8'),
                    'other options of AdaRoute: hidden_dim=16 instead of 8'),
    'other arch': (('test.py', 'GOOD', '--cfg-options', 'model.backbone.arch.depths=[2,2,2,2]',
                    'model.backbone.base_checkpoint=None', 'model.backbone.allow_random_base=True'), 'does not fit AdaptedSwin'),
    'other head': (('test.py', 'GOOD', '--cfg-options', 'model.decode_head.channels=16'),
                   'does not fit the head of EncoderDecoder: '),
    'other classes': (('test.py', 'GOOD', '--cfg-options', 'model.decode_head.num_classes=9',
                       'model.decode_head.loss_decode.class_weight=None'),
                      'model.decode_head.num_classes=9 is not allowed: test_dataloader.dataset has 15 such classes'),
    'missing keys': (('test.py', 'no_head.pth'), 'decode_head.conv_seg.bias'),
    'a web page': (('test.py', 'page.pth'), "'page.pth' is a web page"),
}

# What the unit tests of the checks cover as well.
LONGER = {'resume of a base', 'test of a base', 'test on another base', 'other width', 'other arch', 'missing keys'}


@pytest.mark.parametrize('case', [pytest.param(case, marks=[pytest.mark.full] * (case in LONGER)) for case in REFUSED])
def test_a_checkpoint_that_does_not_fit_is_one_sentence(case, misfits, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in (folder / 'run').glob('*_*') if path.is_file()}
    (script, *arguments), message = REFUSED[case]
    arguments = [str(misfits) if argument == 'GOOD' else argument for argument in arguments]
    if '--cfg-options' not in arguments:
        arguments.append('--cfg-options')
    code = call_in_process(script, CONFIG, '--work-dir', 'run', *arguments, *SHORT, 'train_cfg.max_iters=5')
    assert isinstance(code, str) and message in code and len(code.splitlines()) == 1, code
    assert before == {path: path.read_bytes() for path in (folder / 'run').glob('*_*') if path.is_file()}


def test_two_runs_in_one_work_dir_are_refused_before_anything_is_written(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / 'shared').mkdir()
    ready, child = os.pipe(), os.fork()
    if child == 0:  # stands for the other run
        file = os.open('shared/.running', os.O_RDWR | os.O_CREAT)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.write(file, b'process 1 on elsewhere')
        os.write(ready[1], b'.')
        time.sleep(100)
        os._exit(0)
    os.read(ready[0], 1)
    try:
        code = call_in_process('train.py', CONFIG, '--work-dir', 'shared', '--cfg-options', *SHORT)
        assert 'is in use by another run (process 1 on elsewhere)' in code and 'another work_dir' in code
        assert [path.name for path in (folder / 'shared').iterdir()] == ['.running']
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


TWO = [
    'train_dataloader.batch_size=2', 'model.backbone.drop_path_rate=0.2', 'train_cfg.max_iters=4', 'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=2', 'default_hooks.logger.interval=1', 'randomness.seed=0'
]


def test_two_processes_train_and_evaluate_without_gpus(folder):
    two = dict(cwd=folder, processes=2)
    done = call('train.py', CONFIG, '--launcher', 'pytorch', '--work-dir', 'two', '--cfg-options', *TWO, **two)
    assert done.returncode == 0, done.stdout[-3000:]
    assert '2 process(es) on the CPU, which meet by gloo. SyncBN became BN in 2 place(s)' in done.stdout
    assert 'Effective batch size 4 = 2 process(es) x 2 images x 1' in done.stdout
    checkpoint = (folder / 'two' / 'last_checkpoint').read_text()
    done = call('test.py', CONFIG, checkpoint, '--launcher', 'pytorch', '--work-dir', 'two', **two)
    assert done.returncode == 0 and re.search(r'mIoU: +[\d.]+', done.stdout), done.stdout[-3000:]


@pytest.mark.full
def test_several_machines_and_slurm_without_gpus(folder):
    """Two machines with one process each, and a Slurm job, give what two processes on one machine give."""
    weights = []

    def call_rank(options, environment, rank):
        return call_shell('dist_train.sh', CONFIG, 1, *options, cwd=folder, NNODES='2', NODE_RANK=str(rank), **environment)

    for kind in ('one machine', 'two machines', 'slurm'):
        environment = dict(PORT=free_port())
        work_dir = kind.replace(' ', '_')
        options = ('--work-dir', work_dir, '--cfg-options', *TWO, 'val_dataloader.num_workers=0',
                   'val_dataloader.persistent_workers=False')
        if kind == 'slurm':  # a stand-in for srun: starts the tasks as Slurm does
            srun = folder / 'srun'
            srun.write_text('#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift; done\nexport SLURM_NTASKS=2 SLURM_NODELIST=n '
                            'MASTER_ADDR=127.0.0.1\nSLURM_PROCID=1 SLURM_LOCALID=1 "$@" &\nSLURM_PROCID=0 SLURM_LOCALID=0 '
                            '"$@" && wait\n')
            srun.chmod(0o755)
            done = call_shell('slurm_train.sh', 'cpu', 'job', CONFIG, *options, cwd=folder, GPUS='2', GPUS_PER_NODE='0',
                              PATH=f'{folder}:{os.environ["PATH"]}', **environment)
        elif kind == 'two machines':
            with ThreadPoolExecutor(2) as pool:
                first, done = pool.map(partial(call_rank, options, environment), (1, 0))
            assert first.returncode == 0, first.stdout[-3000:]
        else:
            done = call_shell('dist_train.sh', CONFIG, 2, *options, cwd=folder, **environment)
        assert done.returncode == 0, done.stdout[-3000:]
        weights.append(torch.load(folder / work_dir / 'iter_4.pth', weights_only=False)['state_dict'])
    done = call_shell('dist_test.sh', CONFIG, folder / work_dir / 'iter_4.pth', 2, '--work-dir', work_dir, cwd=folder)
    assert done.returncode == 0 and re.search(r'mIoU: +[\d.]+', done.stdout), done.stdout[-3000:]
    for other in weights[1:]:
        assert all(torch.equal(value, other[name]) for name, value in weights[0].items())


@pytest.mark.full
def test_twenty_kills_of_a_real_run_change_nothing(folder):
    """kill -9 of tools/train.py at random moments, its start included, then --resume, until it has got through."""
    options = [
        '--cfg-options', *SHORT, 'train_cfg.max_iters=240', 'train_cfg.val_interval=60', 'default_hooks.checkpoint.interval=2',
        'model.backbone.drop_path_rate=0.2', 'model.decode_head.dropout_ratio=0.1', 'train_dataloader.num_workers=1',
        'default_hooks.checkpoint.save_best=mIoU'
    ]
    done = call('train.py', CONFIG, '--work-dir', 'undisturbed', *options, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    moments, iterations, last = random.Random(0), [], folder / 'killed' / 'last_checkpoint'
    for turn in range(20):
        before, latest = last.read_text() if last.exists() else None, time.monotonic() + 120
        with open(folder / 'killed.log', 'a') as log:
            run = subprocess.Popen(
                [sys.executable,
                 str(ROOT / 'tools' / 'train.py'), CONFIG, '--work-dir', 'killed', '--resume', *options], cwd=folder, stdout=log,
                stderr=log, env={**os.environ, 'OMP_NUM_THREADS': '1'})
        # Most are killed some time after they have gone on, whatever the machine's speed.
        while turn % 4 and run.poll() is None and time.monotonic() < latest and (last.read_text()
                                                                                 if last.exists() else None) == before:
            time.sleep(0.05)
        try:
            run.wait(moments.uniform(0, 1 if turn % 4 else 8))
        except subprocess.TimeoutExpired:
            pass
        run.kill()
        run.wait()
        iterations.append(torch.load(last.read_text(), weights_only=False)['meta']['iter'] if last.exists() else 0)
        assert not run.returncode > 0, (folder / 'killed.log').read_text()[-3000:]
    print('last checkpoints after the kills:', iterations)
    assert iterations == sorted(iterations) and len(set(iterations)) > 5
    done = call('train.py', CONFIG, '--work-dir', 'killed', '--resume', *options, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:]
    first, second = (torch.load(folder / name / 'iter_240.pth', weights_only=False) for name in ('undisturbed', 'killed'))
    assert all(torch.equal(value, second['state_dict'][name]) for name, value in first['state_dict'].items())
