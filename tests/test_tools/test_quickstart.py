"""The main job at a few iterations, and what a wheel holds."""
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from helpers.processes import Fork, fork, run
from helpers.scripts import load_tool
from mmparax.datasets.synthetic.writers import write_scenes

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'quickstart.py'
SHORT = ('--iterations', '2', '--num-train', '8', '--num-val', '3')


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    """Runs the script, and those that it starts, in copies of this process."""
    monkeypatch.setattr('mmparax.reproduce.process.subprocess', SimpleNamespace(**{**vars(subprocess), 'Popen': Fork}))
    return lambda *arguments: fork(TOOL, *SHORT, *arguments, cwd=tmp_path)


COLUMNS = {
    'segmentation': {'mIoU'}, 'detection': {'AP^b', 'AP^b_50', 'AP^b_75', 'AP^m', 'AP^m_50', 'AP^m_75'},
    'panoptic': {'PQ', 'SQ', 'RQ'}, 'classification': {'top-1'}
}


@pytest.mark.parametrize('task',
                         [pytest.param(task, marks=[] if task == 'segmentation' else pytest.mark.full) for task in COLUMNS])
def test_quickstart_ends_with_table_metric_and_picture(task, quickstart, tmp_path):
    """In processes of its own: what each of the scripts needs, it imports itself."""
    done = run([sys.executable, TOOL, *SHORT, '--task', task], tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'expert centers' in done.stdout and '\nAdaRoute: ' in done.stdout
    assert not re.search('Warning|Loads checkpoint|OneDL|\r', done.stdout), done.stdout
    assert re.search(r'\nTime: scenes \d+ s, training \d+ s, evaluation \d+ s, picture \d+ s; \d+ s in all\n', done.stdout)
    assert len(re.findall(r'^(?:Your own data|A report|How it works): +\S', done.stdout, re.M)) == 3
    picture = Path(re.search(r'^Picture .*: (.*)', done.stdout, re.M)[1])
    assert picture == tmp_path / 'work_dirs' / 'quickstart' / task / 'adaroute_seed0' / 'prediction.png'
    width, height = Image.open(picture).size
    assert width > 1000 and height > 300
    summary = json.loads((picture.parent / 'summary.json').read_text())
    metrics = summary['metrics']  # after two iterations a detector may find nothing
    assert set(metrics) == COLUMNS[task] or (task == 'detection' and not metrics)
    assert all(0 <= value <= 100 for value in metrics.values()) and summary['settings']['iterations'] == 2
    assert len(summary['classes']) == (15 if task == 'segmentation' else 0)
    again = quickstart('--task', task)
    assert again.returncode == 0 and 'done before' in again.stdout


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Let the scripts be called in name only: (function that does a run, their names, those that are to be interrupted)."""
    module = load_tool('quickstart.py')
    monkeypatch.chdir(tmp_path)
    called, interrupted = [], []

    def call(script, log, total, *arguments, append=False):
        folder = log.parent
        called.append((script, sorted(path.name for path in folder.glob('iter_*.pth'))))
        (folder / 'iter_1.pth').touch()
        log.write_text(' Parameters \n┘')
        if script in interrupted:
            raise KeyboardInterrupt
        assert script == 'test.py' or '--resume' in arguments
        (folder / f'iter_{total}.pth').touch()
        (folder / 'log').mkdir(exist_ok=True)
        (folder / 'log' / 'metrics.json').write_text('{"mIoU": 50}')
        return ''

    monkeypatch.setattr(module, 'call', call)
    monkeypatch.setattr(module.Run, '_collect_settings', lambda self: dict(iterations=self.iterations))
    monkeypatch.setattr(module.Run, '_draw', lambda self, result: self.picture.touch())

    def do(*arguments):
        return module.Run('adaroute', 0, module.build_parser().parse_args([*SHORT, *arguments])).do()

    return do, called, interrupted


def test_what_was_interrupted_goes_on(steps, capsys):
    """A training in its middle, then an evaluation: a training that is done is not done again."""
    do, called, interrupted = steps
    for script in ('train.py', 'test.py'):
        interrupted[:] = [script]
        with pytest.raises(KeyboardInterrupt):
            do()
    interrupted.clear()
    result = do()
    assert [script for script, _ in called] == ['train.py', 'train.py', 'test.py', 'test.py']
    assert result['metrics'] == {'mIoU': 50} and called[1][1] == ['iter_1.pth']
    assert set(result['seconds']) == {'training', 'evaluation', 'picture'}
    assert do() == result and 'done before' in capsys.readouterr().out and len(called) == 4


def test_checkpoints_of_other_settings_are_not_resumed(steps):
    do, called, interrupted = steps
    interrupted.append('train.py')
    for arguments in ((), ('--iterations', '4')):
        with pytest.raises(KeyboardInterrupt):
            do(*arguments)
    assert called == [('train.py', []), ('train.py', [])]


def test_a_failing_step_is_shown_with_the_end_of_its_log(quickstart, tmp_path):
    scenes = tmp_path / 'data' / 'scenes'
    write_scenes(scenes, 8, 3, progress=False)
    for image in (scenes / 'images' / 'training').iterdir():
        image.write_bytes(b'no image')
    done = quickstart()
    assert done.returncode == 1 and 'training failed; the end of' in done.stdout
    assert 'scene_0000' in done.stdout
    assert not (tmp_path / 'work_dirs' / 'quickstart' / 'segmentation' / 'adaroute_seed0' / 'summary.json').exists()


def test_a_folder_with_something_else_is_left_alone(quickstart, tmp_path):
    (tmp_path / 'data' / 'scenes').mkdir(parents=True)
    (tmp_path / 'data' / 'scenes' / 'notes.txt').write_text('mine')
    done = quickstart()
    assert done.returncode == 1 and 'Traceback' not in done.stdout
    assert re.search(r'--data-dir=.* is not allowed: .* Choose another folder', done.stdout)
    assert (tmp_path / 'data' / 'scenes' / 'notes.txt').read_text() == 'mine'


@pytest.mark.full
def test_wheel_holds_configs_tools_and_the_mini_backbones(tmp_path):
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w',
         str(tmp_path),
         str(ROOT)], check=True)
    names = zipfile.ZipFile(next(tmp_path.glob('mmparax-*.whl'))).namelist()
    for name in ('mmparax/.mim/configs/_base_/models/upernet_swin-b.py', 'mmparax/.mim/tools/train.py',
                 'mmparax/.mim/demo/image_demo.py', 'mmparax/backbones/swin.py', 'mmparax/.mim/model-index.yml',
                 'mmparax/.mim/configs/metafile.yml', 'mmparax/reproduce/published.json',
                 *(f'mmparax/zoo/{base}_glyphs.{kind}' for base in ('swin_mini', 'convnext_mini', 'vit_mini')
                   for kind in ('safetensors', 'log'))):
        assert name in names
    assert not any(name.startswith(('tests/', 'configs/')) for name in names)
