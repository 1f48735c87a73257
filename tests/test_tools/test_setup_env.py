"""The set-up script's decisions, without installing anything."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.scripts import load_tool

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup_env():
    return load_tool('setup_env.py')


def make_python_without_pip(folder):
    """An interpreter like this one that makes environments without pip, which takes most of the time."""
    interpreter = folder / 'python'
    interpreter.write_text(f'#!/bin/sh\n[ "$1" = -m ] && set -- "$@" --without-pip\nexec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    return str(interpreter)


@pytest.mark.parametrize('version, good', [((3, 9), False), ((3, 10), True), ((3, 12, 1), True), ((3, 13), True),
                                           ((3, 14), False)])
def test_supported_pythons(setup_env, version, good):
    assert setup_env.is_supported(version) is good


def test_a_wrong_python_looks_for_another_and_says_so(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env.sys, 'version_info', (3, 8, 1))
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: sys.executable if name == 'python3.11' else None)
    assert setup_env.find_python() == sys.executable
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
    with pytest.raises(setup_env.SetupError, match=r'Python 3.10-3.13 is needed, but this is Python 3.8'):
        setup_env.find_python()


def test_pins_are_read(setup_env):
    pins = setup_env.read_pins('requirements.txt')
    assert pins['torch'] == 'torch==2.11.0' and pins['onedl-mmcv'].startswith('onedl-mmcv==')
    assert set(setup_env.BUILD_TOOLS) < set(pins) and 'pytest' not in pins  # `-r requirements/tests.txt` is a set of its own
    assert list(setup_env.read_pins(setup_env.NO_DEPS)) == ['panopticapi-lite']


def test_every_package_is_pinned_in_one_set(setup_env):
    seen = {}
    for name in [*setup_env.PINS.values(), setup_env.NO_DEPS]:
        for package, pin in setup_env.read_pins(name).items():
            assert package not in seen, f'{package} is in {seen[package]} and {name}'
            assert '==' in pin or package in setup_env.BUILD_TOOLS, pin
            seen[package] = name
    assert {seen['pytest'], seen['torch'], seen['ruff']} == {'requirements/tests.txt', 'requirements.txt', 'requirements/dev.txt'}


@pytest.fixture
def env(setup_env, tmp_path):
    """An environment in a folder that records pip's calls instead of running them, and stops in them when ``killed``."""
    environment = setup_env.Environment(str(tmp_path))
    environment.calls, environment.killed = [], False
    environment.output = lambda code: '3.11'

    def record(label, *arguments):
        environment.calls.append(arguments)
        if environment.killed:
            raise KeyboardInterrupt

    environment.pip = record
    return environment


def test_a_set_is_installed_once_and_keeps_the_runtime(setup_env, env):
    setup_env.ensure(env, 'dev', force=False)
    setup_env.ensure(env, 'dev', force=False)
    assert len(env.calls) == 1 and {'-c', *setup_env.read_pins('requirements/dev.txt').values()} < set(env.calls[0])
    constraints = Path(env.calls[0][env.calls[0].index('-c') + 1]).read_text().splitlines()
    assert 'numpy==2.2.6' in constraints and len(constraints) == len(setup_env.read_pins('requirements.txt'))
    setup_env.ensure(env, 'dev', force=True)
    assert len(env.calls) == 2


def test_a_set_without_pins_needs_no_pip(setup_env, env, monkeypatch):
    monkeypatch.setattr(setup_env, 'read_pins', lambda name: {})
    setup_env.ensure(env, 'full', force=False)
    assert env.calls == [] and Path(env.stamp('full')).is_file()


def test_a_killed_set_up_counts_as_not_installed(setup_env, env):
    setup_env.ensure(env, 'tests', force=False)
    env.killed = True
    with pytest.raises(KeyboardInterrupt):
        setup_env.ensure(env, 'tests', force=True)  # begun and stopped: the first one's stamp must not vouch for it
    env.killed = False
    setup_env.ensure(env, 'tests', force=False)
    assert len(env.calls) == 3


def test_changed_pins_are_installed(setup_env, env, tmp_path, monkeypatch):
    (tmp_path / 'requirements').mkdir()
    (tmp_path / 'requirements.txt').write_text('numpy==1\n')
    pins = tmp_path / 'requirements' / 'dev.txt'
    pins.write_text('ruff==1\n')
    monkeypatch.setattr(setup_env, 'ROOT', str(tmp_path))
    setup_env.ensure(env, 'dev', force=False)
    pins.write_text('ruff==2\n')
    setup_env.ensure(env, 'dev', force=False)
    assert [call[-1] for call in env.calls] == ['ruff==1', 'ruff==2']


def test_the_runtime_is_checked_each_time(setup_env, env, monkeypatch):
    done = []
    monkeypatch.setattr(setup_env, 'install_runtime', lambda env, choice: done.append('install'))
    monkeypatch.setattr(setup_env, 'verify', lambda env: done.append('verify'))
    setup_env.ensure(env, 'runtime', force=False)
    setup_env.ensure(env, 'runtime', force=False)
    assert done == ['install', 'verify', 'verify']


def test_an_unknown_set_is_named(setup_env, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['setup_env.py', 'test'])
    with pytest.raises(SystemExit):
        setup_env.main()
    assert "there is no set 'test'; the sets are runtime, tests" in capsys.readouterr().err


PINS = ['torch==2.11.0', 'torchvision==0.26.0']


@pytest.mark.parametrize('choice, system, index, pins', [
    (None, 'linux', [], PINS),
    ('cpu', 'linux', ['--index-url', 'https://download.pytorch.org/whl/cpu'], ['torch==2.11.0+cpu', 'torchvision==0.26.0+cpu']),
    ('cu126', 'linux', ['--index-url', 'https://download.pytorch.org/whl/cu126'
                        ], ['torch==2.11.0+cu126', 'torchvision==0.26.0+cu126']),
    ('cu130', 'win32', ['--index-url', 'https://download.pytorch.org/whl/cu130'
                        ], ['torch==2.11.0+cu130', 'torchvision==0.26.0+cu130']),
    ('cpu', 'darwin', ['--index-url', 'https://download.pytorch.org/whl/cpu'], PINS),
])
def test_each_build_of_torch_has_its_index_and_cannot_be_mistaken_for_another(setup_env, choice, system, index, pins):
    """Pins with the build in them: pip also looks into PyPI if that is configured, and would take the build from there."""
    assert setup_env.get_torch_pins(choice, PINS, system) == (index, pins)


@pytest.fixture
def steps(setup_env, env, monkeypatch):
    """Let the runtime be installed in name only: the pip calls are in ``env.calls``."""
    answers = {'importlib.metadata': '2.9.1+cu128', 'torch.cuda': '- False'}
    env.answers = answers
    env.output = lambda code: next((answer for key, answer in answers.items() if key in code), '3.11')
    env.run_script = lambda name, *arguments: '/wheels/onedl_mmcv-2.3.6.whl'
    monkeypatch.setattr(setup_env, 'verify', lambda env: None)
    return env


def get_call(calls, pin):
    """The first of the calls with an argument that begins so."""
    return next(call for call in calls if any(argument.startswith(pin) for argument in call))


def test_the_chosen_build_is_held_and_remembered(setup_env, steps):
    setup_env.ensure(steps, 'runtime', False, 'cu126')
    assert get_call(steps.calls, 'torch==')[-4:] == ('--index-url', 'https://download.pytorch.org/whl/cu126',
                                                     'torch==2.11.0+cu126', 'torchvision==0.26.0+cu126')
    assert {'torch==2.11.0+cu126', 'torchvision==0.26.0+cu126', 'numpy==2.2.6'} < set(get_call(steps.calls, 'numpy=='))
    count = len(steps.calls)
    assert steps.read_choice() == 'cu126'
    setup_env.ensure(steps, 'runtime', False, steps.read_choice())
    assert len(steps.calls) == count  # `make test` afterwards changes nothing
    setup_env.ensure(steps, 'runtime', False, 'cpu')
    assert len(steps.calls) == 2 * count and steps.read_choice() == 'cpu'


def test_an_installed_torch_is_kept_until_it_changes(setup_env, steps):
    setup_env.ensure(steps, 'runtime', False, 'installed')
    called = [argument for call in steps.calls for argument in call]
    assert 'torch==2.9.1+cu128' in get_call(steps.calls, 'numpy==') and 'torch==2.11.0' not in called
    assert get_call(steps.calls, 'torch==')[-2:] == ('torch==2.9.1+cu128', 'torchvision')
    setup_env.ensure(steps, 'tests', False, 'installed')
    constraints = Path(steps.calls[-1][steps.calls[-1].index('-c') + 1]).read_text()
    assert 'torch==' not in constraints and 'numpy==2.2.6' in constraints
    count = len(steps.calls)
    steps.answers['importlib.metadata'] = '2.10.0'
    setup_env.ensure(steps, 'runtime', False, 'installed')
    assert len(steps.calls) > count  # mmcv fits one torch
    steps.answers['importlib.metadata'] = '2.4.1'
    with pytest.raises(setup_env.SetupError, match=r'would keep torch 2.4.1, but mmparax needs 2.5 or newer'):
        setup_env.ensure(steps, 'runtime', False, 'installed')


def test_an_index_that_cannot_be_reached_is_named(setup_env, steps):

    def fail(label, *arguments):
        if label == 'torch':
            raise setup_env.SetupError('pip failed')

    steps.pip = fail
    with pytest.raises(
            setup_env.SetupError, match=r'torch==2.11.0\+cpu with torchvision==0.26.0\+cpu was not installed here: '
            r'https://download.pytorch.org/whl/cpu cannot be reached or has no such build'):
        setup_env.ensure(steps, 'runtime', False, 'cpu')
    assert steps.read_choice() is None  # the next call without TORCH takes PyPI's


def test_an_installed_torch_must_be_there(setup_env, tmp_path):
    """A bare environment in the place of an interpreter without torch, another as one with a torch that cannot be shared."""
    for name in ('bare', 'filled'):
        subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / name], check=True)
    site = next((tmp_path / 'filled' / 'lib').glob('python*/site-packages'))
    (site / 'torch.py').write_text('')
    env = setup_env.Environment(str(tmp_path / 'new'))
    with pytest.raises(setup_env.SetupError, match='neither .*new nor .*python has one: install torch there first'):
        setup_env.create_around_installed_torch(env, str(tmp_path / 'bare' / 'bin' / 'python'), True)
    with pytest.raises(setup_env.SetupError, match='is a virtual environment: set that one up with .*--torch installed --venv '
                       f'{tmp_path}/filled'):
        setup_env.create_around_installed_torch(env, str(tmp_path / 'filled' / 'bin' / 'python'), True)
    assert not (tmp_path / 'new').exists()


def test_an_environment_comes_to_see_the_packages_of_its_interpreter(setup_env, tmp_path, monkeypatch):
    env = setup_env.Environment(str(tmp_path / 'venv'))
    monkeypatch.setattr(setup_env.Environment, 'is_usable', lambda self: (tmp_path / 'venv').exists())
    interpreter = make_python_without_pip(tmp_path)
    env.create(interpreter, exactly=False)
    (tmp_path / 'venv' / 'kept').touch()
    assert not env.sees_system()
    env.create(interpreter, exactly=False, system=True)
    assert env.sees_system() and (tmp_path / 'venv' / 'kept').exists()


def test_an_environment_that_works_outlives_a_venv_that_fails(setup_env, tmp_path, monkeypatch):
    env = setup_env.Environment(str(tmp_path / 'venv'))
    monkeypatch.setattr(setup_env.Environment, 'is_usable', lambda self: Path(self.python).exists())
    monkeypatch.setattr(setup_env, 'probe_python', lambda interpreter: sys.version_info[:2])
    env.create(make_python_without_pip(tmp_path), exactly=False)
    (tmp_path / 'venv' / 'kept').touch()
    settings = (tmp_path / 'venv' / 'pyvenv.cfg').read_text()
    failing = tmp_path / 'failing'
    failing.write_text('#!/bin/sh\necho "include-system-site-packages = true" > "$4/pyvenv.cfg"\necho no ensurepip\nexit 1\n')
    failing.chmod(0o755)
    with pytest.raises(setup_env.SetupError, match='no ensurepip'):
        env.create(str(failing), exactly=False, system=True)
    assert (tmp_path / 'venv' / 'kept').exists() and (tmp_path / 'venv' / 'pyvenv.cfg').read_text() == settings
    new = setup_env.Environment(str(tmp_path / 'new'))
    with pytest.raises(setup_env.SetupError, match='no ensurepip'):
        new.create(str(failing), exactly=False, system=True)
    assert not (tmp_path / 'new').exists()


def test_nothing_is_removed_that_is_no_environment_of_ours(setup_env, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'photo.jpg').touch()
    with pytest.raises(setup_env.SetupError, match='data is not a Python environment and not empty'):
        setup_env.Environment(str(tmp_path / 'data')).create(sys.executable, True)
    assert (tmp_path / 'data' / 'photo.jpg').exists()
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'theirs'], check=True)
    with pytest.raises(setup_env.SetupError, match='theirs has no pip and was not made by this script'):
        setup_env.Environment(str(tmp_path / 'theirs')).create(sys.executable, True)
    assert (tmp_path / 'theirs' / 'pyvenv.cfg').exists()
    ours = setup_env.Environment(str(tmp_path / 'ours'))
    ours.create(make_python_without_pip(tmp_path), False)
    ours.create(make_python_without_pip(tmp_path), False)  # stopped before it had pip, so made again
    assert ours.is_own() and (tmp_path / 'ours' / 'pyvenv.cfg').exists()


def test_another_environment_with_a_python_that_is_too_old_is_left_alone(setup_env, tmp_path, monkeypatch):
    env = setup_env.Environment(str(tmp_path))
    monkeypatch.setattr(setup_env.Environment, 'is_usable', lambda self: True)
    monkeypatch.setattr(setup_env.Environment, 'output', lambda self, code: '3.8')
    with pytest.raises(setup_env.SetupError, match='has Python 3.8 and was not made by this script'):
        env.create(sys.executable, False)
    assert tmp_path.exists()


SMI = """+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI {0}             Driver Version: {0}     CUDA Version: 12.2     |
|   0  NVIDIA A100-SXM4-40GB          On  |   00000000:00:04.0 Off |                    0 |
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put an nvidia-smi on PATH that prints a text, for all arguments or only without any."""
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)

    def put(text, status=0):
        (tmp_path / 'text').write_text(text)
        (tmp_path / 'nvidia-smi').write_text(f'#!/bin/sh\ncat {tmp_path}/text\nexit {status}\n')
        (tmp_path / 'nvidia-smi').chmod(0o755)

    return put


@pytest.mark.parametrize('text, status, driver', [
    (SMI.format('535.104.05'), 0, '535.104.05'),
    ('580.65.06\n', 0, '580.65.06'),
    ('NVIDIA H200, 570.86.15\nNVIDIA H200, 570.86.15\n', 0, '570.86.15'),
    ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9, None),
    ('No devices were found\n', 0, None),
])
def test_the_driver_is_read(setup_env, nvidia_smi, text, status, driver):
    nvidia_smi(text, status)
    assert setup_env.read_driver() == driver


@pytest.mark.parametrize(
    'driver, torch, sentence',
    [
        ('535.104.05', '13.0 False',
         r'driver 535.104.05 is too old .* CUDA 13.0 and needs driver 580 or newer: update the driver, or '
         'take a torch for an older CUDA with `make setup TORCH=cu126`'),
        ('470.57.02', '12.6 False', 'driver 470.57.02 is too old .* needs driver 525 or newer: update the driver; `CUDA_VISIBLE'),
        ('580.65.06', '13.0 False', r'shows a GPU \(driver 580.65.06\), but this torch, built for CUDA 13.0, cannot use it'),
        ('580.65.06', '13.0 True', None),
        ('535.104.05', '12.6 True', None),
        ('535.104.05', '- False', None),  # a build for the CPU, which was asked for
    ])
def test_a_driver_that_does_not_fit_is_told_before_mmcv_is_compiled(setup_env, steps, nvidia_smi, driver, torch, sentence):
    nvidia_smi(SMI.format(driver))
    steps.answers['torch.cuda'] = torch
    compiled = []
    steps.run_script = lambda name, *arguments: compiled.append(arguments) or 'wheel'
    if sentence is None:
        setup_env.install_runtime(steps)
        assert len(compiled) == 2
        return
    with pytest.raises(setup_env.SetupError, match=sentence):
        setup_env.install_runtime(steps)
    assert compiled == [('--check', )]


def test_gpus_that_are_hidden_on_purpose_need_no_driver(setup_env, steps, nvidia_smi, monkeypatch):
    nvidia_smi(SMI.format('470.57.02'))
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    steps.answers['torch.cuda'] = '13.0 False'
    setup_env.check_driver(steps)
    assert steps.calls == []


def call_make(*words, **variables):
    """What ``make setup`` says with an interpreter or a build that it refuses before it does anything."""
    outer = {name: value for name, value in os.environ.items() if name not in ('MAKEFLAGS', 'MFLAGS', 'PYTHON', 'TORCH')}
    done = subprocess.run(['make', '-s', '-C', ROOT, 'setup', *words], text=True, capture_output=True, env={**outer, **variables})
    assert done.returncode != 0
    return next(line for line in done.stderr.splitlines() if not line.startswith('make'))


@pytest.mark.skipif(shutil.which('make') is None, reason='needs make')
def test_make_refuses_what_it_cannot_obey(tmp_path):
    remedy = 'give a Python 3.10-3.13 by name or path, or leave PYTHON out.'
    assert call_make('PYTHON=nonsense') == f'[setup] PYTHON=nonsense is no program that was found: {remedy}'
    assert call_make('PYTHON=') == f'[setup] PYTHON= is no program that was found: {remedy}'
    assert call_make('PYTHON=false') == f'[setup] PYTHON=false does not run as a Python (it printed nothing): {remedy}'
    old = tmp_path / 'python3.9'
    old.write_text('#!/bin/sh\necho 3.9\n')
    old.chmod(0o755)
    assert call_make(f'PYTHON={old}') == f'[setup] PYTHON={old} is Python 3.9: {remedy}'
    assert call_make('TORCH=cu118') == '[setup] TORCH=cu118 is not known: choose cpu, cu126, cu130, installed, or leave it out ' \
        'for the build of PyPI.'
    assert call_make(PYTHON='nonsense').startswith('[setup] PYTHON=nonsense is no')


def test_a_python_by_name_or_path_is_taken(setup_env, tmp_path, monkeypatch):
    (tmp_path / 'python3.12').write_text('#!/bin/sh\necho 3.12\n')
    (tmp_path / 'python3.12').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    assert setup_env.get_python('python3.12') == str(tmp_path / 'python3.12')
    assert setup_env.get_python(sys.executable) == os.path.abspath(sys.executable)


def test_what_a_script_says_last_is_the_reason(setup_env, tmp_path, capsys):
    """setup_mmcv.py in the environment, here this Python: progress is shown, its sentence becomes the error."""
    env = setup_env.Environment(str(tmp_path))
    env.python = sys.executable
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MAX_JOBS', '2')
        assert env.run_script('setup_mmcv.py', '--check') == '2'
        patch.setenv('MAX_JOBS', 'many')
        with pytest.raises(setup_env.SetupError, match='^MAX_JOBS=many is no number of compile jobs'):
            env.run_script('setup_mmcv.py', '--check')
    assert capsys.readouterr().err == ''


@pytest.fixture
def saying(setup_env, tmp_path):
    """Makes an environment whose interpreter prints a text to both outputs and fails, whatever it is asked for."""

    def make(text):
        (tmp_path / 'bin').mkdir()
        program = tmp_path / 'bin' / 'python'
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\ncat >&2 <<'END'\n{text}\nEND\nexit 1\n")
        program.chmod(0o755)
        return setup_env.Environment(str(tmp_path))

    return make


@pytest.mark.parametrize('text, sentence', [
    ('NewConnectionError: Temporary failure in name resolution', 'the package index could not be reached while getting torch: '
     r'check the network or the proxy settings and call this again \(what was done is kept'),
    ('ERROR: No matching distribution found for torch (from versions: none)', 'the package index could not be reached'),
    ('OSError: [Errno 28] No space left on device', 'the disk is full: about 6 GB are needed below '),
    ('ERROR: conflicting dependencies', 'installing torch failed; the lines above are the end of .*setup.log'),
])
def test_pip_that_fails_is_one_sentence(setup_env, saying, capsys, text, sentence):
    with pytest.raises(setup_env.SetupError, match=sentence):
        saying(text).pip('torch', 'install', 'torch')
    assert bool(capsys.readouterr().err) is sentence.startswith('installing')


def test_an_mmcv_of_another_torch_is_told_of_with_its_wheel(setup_env, saying, capsys):
    env = saying('ImportError: mmcv/_ext.so: undefined symbol: _ZN2at4_ops')
    env.run_script = lambda name, *arguments: f'/wheels/{name}{arguments}'
    with pytest.raises(
            setup_env.SetupError, match=r'does not import \(ImportError: .*\): its wheel was built against another torch: '
            r"remove /wheels/setup_mmcv.py\('--folder',\) and .*, and call this again"):
        setup_env.verify(env)


def test_a_half_made_environment_is_made_again(setup_env, tmp_path, monkeypatch):
    env = setup_env.Environment(str(tmp_path / 'venv'))
    (tmp_path / 'venv' / 'bin').mkdir(parents=True)
    (tmp_path / 'venv' / 'bin' / 'python').symlink_to(sys.executable)  # but no pip and no pyvenv.cfg
    monkeypatch.setattr(setup_env.Environment, 'is_usable', lambda self: False)
    env.create(make_python_without_pip(tmp_path), exactly=False)
    assert (tmp_path / 'venv' / 'pyvenv.cfg').is_file()
