"""What a script does before it imports torch, and how it ends: help at once, closed pipes, Ctrl-C, noise."""
import io
import logging
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from mmparax.benchmark.candidates import list_backbones
from mmparax.cli import ToolParser, end_interrupted, tool
from mmparax.reproduce.mini_backbones import BACKBONES
from mmparax.utils.choices import BENCHMARK_BACKBONES, MINI_BACKBONES
from mmparax.utils.noise import DEPRECATED, LONG_RECORDS, REMARKS, _Terminal, silence_third_parties

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    str(path.relative_to(ROOT)) for folder in ('tools', 'demo') for path in (ROOT / folder).rglob('*.py')
    if path.name != 'setup_env.py')
HEAVY = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'matplotlib', 'sklearn', 'onnx')


def start(code, **options):
    return subprocess.Popen([sys.executable, '-c', code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
                            env={**os.environ, 'PYTHONPATH': str(ROOT)}, **options)


def test_no_help_waits_for_torch():
    """All scripts in one process, which would keep what any of them imports."""
    process = start(f"""
import contextlib, io, runpy, sys
for script in {SCRIPTS!r}:
    sys.argv, text = [script, '--help'], io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            runpy.run_path(script, run_name='__main__')
        except SystemExit as stopped:
            assert stopped.code == 0, script
    assert text.getvalue().startswith('usage: '), script
    found = [name for name in {HEAVY!r} if name in sys.modules]
    assert not found, (script, found)
""")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors


def test_names_that_scripts_offer_are_those_of_the_rooms():
    assert list(BENCHMARK_BACKBONES) == list_backbones() and list(MINI_BACKBONES) == sorted(BACKBONES)


SCRIPT = """
import logging, sys, time
from mmparax.cli import ToolParser, tool
def build_parser():
    parser = ToolParser('A script.')
    parser.add_argument('--launcher', default='none')
    return parser
@tool(build_parser)
def main(args):
    {body}
main()
"""
LOG = "handler = logging.StreamHandler(sys.stdout); logging.getLogger('a').addHandler(handler)\n    "
WRITERS = {
    'print': "[print('x' * 1000) for _ in range(1000)]",
    'the rest at the end': "print('x' * 4000)",
    'a log': LOG + "[logging.getLogger('a').warning('x' * 1000) for _ in range(1000)]",
    'a table': "from rich.console import Console\n    [Console().print('x' * 1000) for _ in range(1000)]",
}


@pytest.mark.parametrize('writer', WRITERS)
def test_a_closed_pipe_ends_a_script_without_a_word(writer):
    process = start(SCRIPT.format(body="time.sleep(0.3)\n    " + WRITERS[writer]))
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 141 and errors == ''


# The second is what NumPy does with an interrupt of its import.
JOBS = {
    'in a job': "print('ready', flush=True); time.sleep(60)",
    'in an import': "print('ready', flush=True)\n    try:\n        time.sleep(60)\n"
    "    except KeyboardInterrupt:\n        raise ImportError('half')",
}


@pytest.mark.parametrize('job', JOBS)
def test_ctrl_c_is_one_sentence(job):
    process = start(SCRIPT.format(body=JOBS[job]))
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, '\nInterrupted.\n')


@pytest.mark.parametrize('rank', [0, 1])
def test_of_several_processes_the_first_says_it(rank):
    process = start(
        SCRIPT.format(body="args.launcher = 'pytorch'; print('ready', flush=True); time.sleep(60)").replace(
            'import logging', f'import os; os.environ["RANK"] = "{rank}"; import logging'))
    assert process.stdout.readline() == 'ready\n'
    for _ in range(2):  # from the terminal and from the launcher
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == ('\nInterrupted.\n' if rank == 0 else '')


def test_an_error_after_no_interrupt_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['script.py'])

    @tool(lambda: ToolParser('A script.'))
    def main(args):
        raise ImportError('half')

    with pytest.raises(SystemExit, match='^ImportError: half '):
        main()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(SystemExit):
        end_interrupted()


def test_what_third_parties_print(monkeypatch, capsys):
    """Deprecations and messages of the debug level are left out, other warnings are one line."""
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        monkeypatch.setattr(sys, 'warnoptions', [])
        monkeypatch.setattr(warnings, 'formatwarning', warnings.formatwarning)
        for name in ('ORT_LOGGING_LEVEL', 'TF_CPP_MIN_LOG_LEVEL', 'TF_ENABLE_ONEDNN_OPTS'):
            monkeypatch.setenv(name, os.environ.get(name, ''))
        monkeypatch.delenv('MMPARAX_TRACEBACK', raising=False)
        silence_third_parties()
        stream = io.StringIO()
        monkeypatch.setattr(sys, 'stderr', stream)
        monkeypatch.setattr(warnings, 'showwarning', lambda *args, **_: stream.write(warnings.formatwarning(*args[:4])))
        warnings.warn('pkg_resources is deprecated as an API', UserWarning, stacklevel=1)
        warnings.warn('torch.cuda.amp.GradScaler is deprecated', FutureWarning, stacklevel=1)
        warnings.warn('use another', DeprecationWarning, stacklevel=1)
        for needless in ('The draw is False, it means', 'Default ``avg_non_ignore`` is False, if you would like to ignore',
                         'Detected call of `scheduler.step()` before `optimizer.step()`. In PyTorch'):
            warnings.warn(needless, UserWarning, stacklevel=1)
        warnings.warn('the loss is odd', UserWarning, stacklevel=1)
        assert stream.getvalue().count('\n') == 1 and 'UserWarning: the loss is odd' in stream.getvalue()
    from mmengine.runner.checkpoint import print_log  # mmparax's own work at the import of mmengine imports it early
    print_log('Loads checkpoint by local backend from path: a.pth')
    print_log('Could not import OneDL', level=logging.DEBUG)
    print_log('said')
    assert capsys.readouterr().out == 'said\n'


@pytest.mark.parametrize('text, level, path, shown', [
    ('\n' + '-' * 60 + '\nSystem environment:\n', logging.INFO, '/site/mmengine/runner.py', False),
    ('Config:\nmodel = dict()', logging.INFO, '/site/mmengine/runner.py', False),
    ('Hooks will be executed in the following order:\nbefore_run', logging.INFO, '/site/mmengine/runner.py', False),
    ('"FileClient" will be deprecated in future.', logging.WARNING, '/site/mmengine/file_client.py', False),
    ('The loss is deprecated.', logging.WARNING, '/site/mmparax/hooks/peft_hook.py', True),
    ('Iter(train) [1/3]', logging.INFO, '/site/mmengine/hooks/logger_hook.py', True),
    ('The prefix is not set in metric class IoUMetric.', logging.WARNING, '/site/mmengine/metric.py', False),
    ('Distributed training is not used, all SyncBatchNorm (SyncBN)', logging.INFO, '/site/mmengine/runner.py', False),
    ('The loss is not finite.', logging.WARNING, '/site/mmengine/runner.py', True),
])
def test_long_records_are_for_the_file(text, level, path, shown):
    record = logging.LogRecord('mmengine', level, path, 1, text, None, None)
    assert _Terminal().filter(record) is shown
    assert shown or LONG_RECORDS.match(text) or REMARKS.match(text) or re.match(DEPRECATED, text)
