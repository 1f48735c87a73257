"""tools/reproduce.py as a user calls it."""
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from helpers.processes import run as run_process
from mmparax.datasets.synthetic import writers
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.errors import InputError

TOOL = Path(__file__).parents[2] / 'tools' / 'reproduce.py'
ALL = ['--table', *map(str, range(1, 11))]


@pytest.fixture
def reproduce(tmp_path, monkeypatch, capsys):
    """Call the script in this process, in an empty folder; return what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('MMPARAX_TRACEBACK', '1')

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, arguments)])
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr()

    return call


def test_list_as_json_has_the_published_and_the_built(reproduce, tmp_path):
    out = reproduce('--list', '--json', '--table', 1, 6, '--row', 'AdaRoute', 'VPT', '9', '--backbone', 'swin-b').out
    rows = {row['row']: row for row in json.loads(out)}
    assert list(rows) == ['VPT', 'AdaRoute', '9']
    names = {'table', 'backbone', 'method', 'config', 'params_published', 'params_built', 'published', 'state'}
    assert names <= set(rows['VPT'])
    assert rows['AdaRoute']['params_published'] == 5.2 and rows['AdaRoute']['params_built'] == 5242992
    assert rows['AdaRoute']['published'] == {'mIoU': 50.3} and rows['AdaRoute']['state'] == 'not run'
    assert rows['9']['params_published'] is None and rows['9']['params_built'] == 5215452
    assert (tmp_path / rows['9']['config']).resolve().is_file()
    assert not (tmp_path / 'work_dirs').exists()


def test_tiny_list_names_every_entry_of_the_paper_that_a_row_stands_for(reproduce):
    done = reproduce('--list', '--json', '--table', 1, '--scale', 'tiny', '--row', 'Full-tuning', 'Frozen')
    rows = json.loads(done.out)
    assert [row['backbone'] for row in rows] == ['swin-mini'] * 2 + ['convnext-mini'] * 2
    assert rows[1]['published'] == {'swin-b ade20k': {'mIoU': 50.2}, 'swin-l ade20k': {'mIoU': 51.2}}
    assert rows[0]['published'] == {} and rows[0]['params_published'] is None


@pytest.mark.parametrize('suffix', ['md', 'html'])
def test_report_of_nothing_says_not_run_everywhere(reproduce, tmp_path, suffix):
    reproduce('--report', f'out.{suffix}', '--table', 1, 2, '--row', 'Full-tuning', '--backbone', 'swin-b')
    text = (tmp_path / f'out.{suffix}').read_text()
    assert text.count('not run') == 1 + 6 and '47.5' in text and '0 runs are done' in text
    assert 'http' not in text and (suffix == 'md' or 'prefers-color-scheme: dark' in text)


def test_dry_run_prints_the_commands_of_every_launcher(reproduce, tmp_path):
    entry = ['--table', 1, '--row', 'Mona', '--backbone', 'swin-l', '--dry-run']
    done = reproduce(*entry)
    assert 'Warning: this machine has' in done.err
    assert 'tools/train.py' in done.out and 'randomness.seed=0 train_dataloader.batch_size=16' in done.out
    assert 'work_dirs/reproduce/full/upernet_swin-l_mona_4xb4-160k_ade20k-512x512/seed0/train/best_*.pth' in done.out
    out = reproduce(*entry, '--launcher', 'pytorch', '--num-seeds', 2).out
    assert out.count('dist_train.sh') == out.count('dist_test.sh') == 2 and 'randomness.seed=1' in out and '512.py 4 ' in out
    out = reproduce(*entry, '--launcher', 'slurm', '--partition', 'gpu', '--gpus', 8).out
    assert 'GPUS=8' in out and 'slurm_train.sh gpu upernet_swin-l_mona' in out and 'batch_size=2' in out
    assert 'PORT=2' in out and "slurm_train.sh '' upernet_swin-l_mona" in reproduce(*entry, '--launcher', 'slurm').out
    assert not (tmp_path / 'work_dirs').exists()


@pytest.mark.parametrize('partition, expected', [('', []), ('my gpus', ['--partition=my gpus'])])
def test_without_a_partition_slurm_takes_its_own(partition, expected, tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    done = run_process([str(TOOL.with_name('slurm_train.sh')), partition, 'job', 'c.py'], tmp_path,
                       PATH=f'{tmp_path}:{os.environ["PATH"]}')
    words = done.stdout.splitlines()
    assert done.returncode == 0 and [word for word in words if 'partition' in word] == expected
    assert words[:1 + len(expected)] == [*expected, '--job-name=job'] and 'c.py' in words


@pytest.mark.parametrize('tiny', [False, True])
def test_list_loses_nothing_on_a_narrow_terminal(tiny):
    row = dict(table=9, row='sequential_no_residual', backbone='convnext-b', dataset='Food-101', params_published=195.0,
               config='ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco_experts-half-dim192.py', params_built=195202933,
               published=dict(zip('abcdef', (49.5, 71.9, 54.4, 44.8, 69.2, 48.4))),
               state='seed 0: stopped at iteration 152000 of 160000; seed 1: failed at iteration 800 of 160000: OutOfMemory')
    stream = io.StringIO()
    Console(file=stream, width=100).print(runpy.run_path(str(TOOL))['make_table']([row], tiny))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 100 and '…' not in stream.getvalue()
    letters = Counter(''.join(lines))
    numbers = '' if tiny else '195.0 49.5 71.9 54.4 44.8 69.2 48.4'
    texts = [row['row'], row['backbone'], row['dataset'], row['config'][:-3], row['state'], '195.203', numbers]
    needed = Counter(''.join(texts).replace(' ', ''))
    assert not needed - letters, stream.getvalue()


def test_scenes_that_another_start_has_written_in_the_meantime_are_taken(tmp_path, monkeypatch):
    first, second, other = (tmp_path / name for name in ('first', 'second', 'other'))
    write_scenes(first, 2, 1, progress=False)
    write_scenes(other, 1, 1, progress=False)
    count = writers._count_files

    def while_another(source, target):

        def counted(root):
            if not target.exists():
                shutil.copytree(source, target)
            return count(root)

        return counted

    monkeypatch.setattr(writers, '_count_files', while_another(first, second))
    assert write_scenes(second, 2, 1, progress=False) is False
    third = tmp_path / 'third'
    monkeypatch.setattr(writers, '_count_files', while_another(other, third))
    with pytest.raises(InputError, match='holds other scenes'):
        write_scenes(third, 2, 1, progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['first', 'other', 'second', 'third']


@pytest.mark.parametrize('arguments, message',
                         [(['--table', '11'], '--table=11 is not allowed'),
                          (['--table', '1', '--row', 'DoRA'], "--row='DoRA' is not allowed.*LoRA"),
                          (['--table', '1', '--backbone', 'vit-b16'], '--backbone=.*swin-b'),
                          (['--table', '1', '--gpus', '4'], '--gpus=4.*--launcher'),
                          (['--report', 'out.pdf'], r'--report=.*\.md or \.html'),
                          (['--table', '1', '--iterations', '10'], '--iterations=10'),
                          (['--table', '1', '--num-seeds', '0'], '--num-seeds=0'),
                          (['--table', '1', '--scale', 'tiny', '--gpus', '2'], 'one process'), ([], 'nothing to do'),
                          (['--table', '1', '--launcher', 'pytorch', '--gpus', '64'], 'needs 64: use --scale tiny')])
def test_wrong_arguments_are_one_sentence(reproduce, arguments, message, monkeypatch):
    monkeypatch.delenv('MMPARAX_TRACEBACK')
    with pytest.raises(SystemExit) as stopped:
        reproduce(*arguments)
    assert re.search(message, stopped.value.code) and len(stopped.value.code.splitlines()) == 1


@pytest.mark.full
def test_every_entry_is_listed_with_its_count(reproduce):
    rows = json.loads(reproduce('--list', '--json').out)
    assert len(rows) == 116
    wrong = {(row['table'], row['row'], row['backbone']): (row['params_published'], row['params_built']) for row in rows
             if row['params_published'] is not None and abs(row['params_built'] / 1e6 - row['params_published']) > 0.0501}
    # method.md §4: what cannot be met as published.
    assert {key[:2] for key in wrong} == {(1, 'Full-tuning'), (2, 'Full-tuning'), (3, 'Full-tuning'), (4, 'Full-tuning'),
                                          (5, '2L-72'), (7, 'k579')}


@pytest.mark.full
def test_a_tiny_table_is_killed_resumed_and_reported(tmp_path):
    write_scenes(tmp_path / 'data' / 'scenes', 8, 3, progress=False)
    command = [sys.executable, str(TOOL), '--table', '4', '--scale', 'tiny', '--row', 'LoRA', '--iterations', '4']
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env={**os.environ, 'OMP_NUM_THREADS': '1'})
    folder = tmp_path / 'work_dirs' / 'reproduce' / 'tiny' / 'vit-mini_lora' / 'seed0'
    while not (folder / 'train' / 'last_checkpoint').exists():
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (folder / 'result.json').exists()
    second = run_process(command, tmp_path)
    assert second.returncode == 0 and 'done: top-1' in second.stdout, second.stdout[-3000:]
    result = json.loads((folder / 'result.json').read_text())
    assert result['starts'] == 2 and result['settings']['iterations'] == 4 and 0 <= result['metrics']['top-1'] <= 100
    report = (folder.parents[1] / 'table4.md').read_text()
    line = next(line for line in report.splitlines() if line.startswith('| vit-mini | LoRA'))
    assert f'{result["parameters"]:,}' in line and f'{result["metrics"]["top-1"]:.1f}' in line and 'seed0/train.txt' in line
    assert report.count('not run') == 7 + 1  # the other methods, and their order
    third = run_process(command, tmp_path)
    assert third.returncode == 0 and 'before, kept' in third.stdout
