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
    assert setup_env.supported(version) is good


def test_a_wrong_python_looks_for_another_and_says_so(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env.sys, 'version_info', (3, 8, 1))
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: sys.executable if name == 'python3.11' else None)
    assert setup_env.find_python() == sys.executable
    monkeypatch.setattr(setup_env.shutil, 'which', lambda name: None)
    with pytest.raises(setup_env.SetupError, match=r'Python 3.10-3.12 is needed, but this is Python 3.8'):
        setup_env.find_python()


def test_pins_are_read(setup_env):
    pins, no_deps = setup_env.read_requirements()
    assert pins['torch'] == 'torch==2.11.0' and pins['onedl-mmcv'].startswith('onedl-mmcv==')
    assert set(setup_env.BUILD_TOOLS) < set(pins) and [pin.split('==')[0] for pin in no_deps] == ['panopticapi-lite']


def test_mmcv_is_compiled_once_per_torch(setup_env, monkeypatch, tmp_path):
    monkeypatch.setenv('MMPARAX_WHEEL_DIR', str(tmp_path))
    env = FakeEnvironment(header=str(tmp_path))
    monkeypatch.setattr(setup_env, 'check_compiler', lambda env: None)
    first = setup_env.mmcv_wheel(env, 'onedl-mmcv==1.0')
    assert Path(first).is_file() and '--no-cache-dir' in env.calls[0]
    assert setup_env.mmcv_wheel(env, 'onedl-mmcv==1.0') == first and len(env.calls) == 1
    other = setup_env.mmcv_wheel(FakeEnvironment(tag='torch-2.1-cpu-cp311-x86_64'), 'onedl-mmcv==1.0')
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
    (tmp_path / 'bin' / 'python').write_text('#!/bin/sh\necho "NewConnectionError: Temporary failure in name resolution"\nexit 1\n')
    (tmp_path / 'bin' / 'python').chmod(0o755)
    with pytest.raises(setup_env.SetupError, match='package index could not be reached while getting torch'):
        env.pip('torch', 'install', 'torch')
    assert capsys.readouterr().err == ''


def test_a_half_made_environment_is_made_again(setup_env, tmp_path, monkeypatch):
    env = setup_env.Environment(str(tmp_path / 'venv'))
    (tmp_path / 'venv' / 'bin').mkdir(parents=True)
    (tmp_path / 'venv' / 'bin' / 'python').symlink_to(sys.executable)  # but no pip and no pyvenv.cfg
    monkeypatch.setattr(setup_env.Environment, 'usable', lambda self: False)
    interpreter = tmp_path / 'python'  # installing pip takes most of the time of a new environment
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} "$@" --without-pip\n')
    interpreter.chmod(0o755)
    env.create(interpreter, exactly=False)
    assert (tmp_path / 'venv' / 'pyvenv.cfg').is_file()
