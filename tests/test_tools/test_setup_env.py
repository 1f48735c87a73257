"""The set-up script's decisions, without installing anything."""
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup_env():
    spec = importlib.util.spec_from_file_location('setup_env', ROOT / 'tools' / 'setup_env.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class FakeEnvironment:
    """Answers what the script asks of an environment and notes its pip calls."""
    path = '/somewhere/.venv'

    def __init__(self, tag='torch-2.0-cpu-cp311-x86_64', header='', toolkit=''):
        self.tag, self.header, self.toolkit, self.calls = tag, header, toolkit, []

    def output(self, code):
        if 'CUDA_HOME' in code:
            return self.toolkit
        return self.header if 'get_paths' in code else self.tag

    def pip(self, label, *arguments):
        self.calls.append(arguments)
        if arguments[0] == 'wheel':
            (Path(arguments[arguments.index('-w') + 1]) / 'onedl_mmcv-1.0-cp311-linux.whl').write_text('')


@pytest.mark.parametrize('version, good', [((3, 9), False), ((3, 10), True), ((3, 12, 1), True), ((3, 13), False)])
def test_supported_pythons(setup_env, version, good):
    assert setup_env.is_supported(version) is good


def test_a_wrong_python_looks_for_another_and_says_so(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env.sys, 'version_info', (3, 8, 1))
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: sys.executable if name == 'python3.11' else None)
    assert setup_env.find_python() == sys.executable
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
    with pytest.raises(setup_env.SetupError, match=r'Python 3.10-3.12 is needed, but this is Python 3.8'):
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
    monkeypatch.setattr(setup_env, 'install_runtime', lambda env: done.append('install'))
    monkeypatch.setattr(setup_env, 'verify', lambda env: done.append('verify'))
    setup_env.ensure(env, 'runtime', force=False)
    setup_env.ensure(env, 'runtime', force=False)
    assert done == ['install', 'verify', 'verify']


def test_an_unknown_set_is_named(setup_env, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['setup_env.py', 'test'])
    with pytest.raises(SystemExit):
        setup_env.main()
    assert "there is no set 'test'; the sets are runtime, tests" in capsys.readouterr().err


def test_mmcv_is_compiled_once_per_torch(setup_env, monkeypatch, tmp_path):
    monkeypatch.setenv('MMPARAX_WHEEL_DIR', str(tmp_path))
    env = FakeEnvironment(header=str(tmp_path))
    monkeypatch.setattr(setup_env, 'check_compiler', lambda env: None)
    first = setup_env.get_mmcv_wheel(env, 'onedl-mmcv==1.0')
    assert Path(first).is_file() and '--no-cache-dir' in env.calls[0]
    assert setup_env.get_mmcv_wheel(env, 'onedl-mmcv==1.0') == first and len(env.calls) == 1
    other = setup_env.get_mmcv_wheel(FakeEnvironment(tag='torch-2.1-cpu-cp311-x86_64'), 'onedl-mmcv==1.0')
    assert other != first


def test_missing_compiler_headers_and_toolkit_are_named(setup_env, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
    with pytest.raises(setup_env.SetupError, match='C\\+\\+ compiler is needed'):
        setup_env.check_compiler(FakeEnvironment())
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: '/usr/bin/' + name)
    with pytest.raises(setup_env.SetupError, match='Python headers are needed'):
        setup_env.check_compiler(FakeEnvironment(header=str(tmp_path)))
    (tmp_path / 'Python.h').write_text('')
    with pytest.raises(setup_env.SetupError, match='CUDA 13.0 toolkit'):
        setup_env.check_compiler(FakeEnvironment(header=str(tmp_path), toolkit='13.0'))


def test_no_network_is_one_sentence(setup_env, tmp_path, capsys):
    env = setup_env.Environment(str(tmp_path))
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'python').write_text('#!/bin/sh\necho "NewConnectionError: Temporary failure in name resolution"\n'
                                             'exit 1\n')
    (tmp_path / 'bin' / 'python').chmod(0o755)
    with pytest.raises(setup_env.SetupError, match='package index could not be reached while getting torch'):
        env.pip('torch', 'install', 'torch')
    assert capsys.readouterr().err == ''


def test_a_half_made_environment_is_made_again(setup_env, tmp_path, monkeypatch):
    env = setup_env.Environment(str(tmp_path / 'venv'))
    (tmp_path / 'venv' / 'bin').mkdir(parents=True)
    (tmp_path / 'venv' / 'bin' / 'python').symlink_to(sys.executable)  # but no pip and no pyvenv.cfg
    monkeypatch.setattr(setup_env.Environment, 'is_usable', lambda self: False)
    interpreter = tmp_path / 'python'  # installing pip takes most of the time of a new environment
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --without-pip\n')
    interpreter.chmod(0o755)
    env.create(interpreter, exactly=False)
    assert (tmp_path / 'venv' / 'pyvenv.cfg').is_file()
