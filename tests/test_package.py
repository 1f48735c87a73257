"""Importing the package: light, clear about what is missing, and every registered name is there."""
import ast
import os
import shutil
import site
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import mmparax
from mmparax import registry
from mmparax.__main__ import main
from mmparax.utils.toolboxes import require

REGISTRIES = (registry.MODELS, registry.HOOKS, registry.DATASETS, registry.OPTIM_WRAPPER_CONSTRUCTORS)
NOT_REGISTERED = {'AdapterBank', 'BlockInfo', 'Method', 'ParameterCount'}  # classes for use from Python

ROOT = Path(__file__).parents[1]


def run(code, *blocked):
    """What a fresh process prints that cannot import some packages."""
    block = f'import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n'
    done = subprocess.run([sys.executable, '-c', block + code], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr('mmparax.utils.toolboxes.find_spec', lambda name: None if name == 'mmpretrain' else object())
    require('mmengine', 'mmcv')
    with pytest.raises(ImportError, match='mmparax needs the package mmpretrain, .*pip install onedl-mmpretrain'):
        require('mmcv', 'mmpretrain')


def test_import_loads_no_toolbox():
    assert run('import mmparax.registry; print([name for name in ("mmcv", "mmdet", "mmpretrain") if name in sys.modules])') \
        == '[]'


def test_import_waits_for_nothing():
    """What it changes in mmengine it changes as soon as mmengine is there."""
    assert run("""
import sys
import mmparax
print([name for name in ('torch', 'numpy', 'mmengine') if name in sys.modules])
import mmengine
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.runner.checkpoint import CheckpointLoader
print('mmparax' in MODULE2PACKAGE, CheckpointLoader._schemes['http://'].__module__)
""").splitlines() == ['[]', 'True mmparax.checkpoint.installation']


def test_any_module_may_be_the_first_to_import_mmengine():
    """What mmparax changes in mmengine then does not ask for the module that is half imported."""
    modules = [
        'weights.reader', 'weights.adapter_file', 'utils.storage', 'utils.modules', 'config.inheritance',
        'checkpoint.installation', 'checkpoint.mmengine_loading', 'config.files'
    ]
    assert run(f"""
import sys
for name in {modules!r}:
    for loaded in [loaded for loaded in sys.modules if loaded.split('.')[0] in ('mmparax', 'mmengine')]:
        del sys.modules[loaded]
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != '_Waiting']
    __import__('mmparax.' + name)
    import mmengine
    from mmengine.runner.checkpoint import CheckpointLoader
    print(CheckpointLoader._schemes['http://'].__name__, CheckpointLoader._schemes['http://'].__module__)
""").splitlines() == ['load_from_http mmparax.checkpoint.installation'] * len(modules)


@pytest.mark.parametrize('names, package', [(['SVHN'], 'mmcv'), (['AdaptedMiT', 'AdaRouteMiT'], 'mmseg')], ids=['SVHN', 'MiT'])
def test_what_needs_an_absent_package_says_so_when_it_is_built(names, package):
    printed = run(
        f"""
import mmparax
from mmengine.registry import DATASETS, MODELS
for name in {names!r}:
    try:
        (DATASETS if name == 'SVHN' else MODELS).build(dict(type='mmparax.' + name))
    except mmparax.errors.MissingPackageError as error:
        print(isinstance(error, ImportError), error)
""", package).splitlines()
    assert len(printed) == len(names)
    assert all(line.startswith(f'True mmparax needs the package {package}, which is not installed: run `pip') for line in printed)


def test_without_mmengine_the_package_is_there_and_names_say_what_they_need():
    printed = run(
        """
import mmparax
print(mmparax.__version__, mmparax.ParameterError('size', 0, 'it must be more'))
for name in ('LoRA', 'count_parameters'):
    try:
        getattr(mmparax, name)
    except ImportError as error:
        print(error)
""", 'mmengine').splitlines()
    assert printed[0] == f'{mmparax.__version__} size=0 is not allowed: it must be more.'
    assert len(printed) == 3 and all(line.startswith('mmparax needs the package mmengine, which is not') for line in printed[1:])


def test_without_locks_a_folder_is_claimed_with_one_warning(tmp_path):
    """Windows has no fcntl."""
    printed = run(
        f"""
import mmparax
from mmparax.utils import locks
locks.print_log = lambda text, **_: print(text)
for name in ('first', 'second'):
    locks.lock_folder({str(tmp_path)!r} + '/' + name)
    locks.unlock_folder({str(tmp_path)!r} + '/' + name)
print(locks.in_use({str(tmp_path)!r} + '/first'), mmparax.CheckpointHook.__name__)
""", 'fcntl').splitlines()
    assert printed == [
        'This system has no locks: nothing keeps a second run out of the folder of this one.', 'False CheckpointHook'
    ]


def test_every_registered_name_is_a_public_one_and_the_other_way_round():
    registered = {}
    for each in REGISTRIES:
        each.import_from_location()
        registered.update(each.module_dict)
    for name, cls in registered.items():
        assert getattr(mmparax, name) is cls
    classes = {name for name in mmparax.__all__ if isinstance(getattr(mmparax, name), type)}
    errors = {name for name in classes if issubclass(getattr(mmparax, name), Exception)}
    assert classes - errors - NOT_REGISTERED == set(registered)


def test_no_room_takes_a_name_from_the_package_itself():
    """Its lazy names lead to every room, past the contract about their order."""
    for path in sorted(Path(mmparax.__file__).parent.rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == 'mmparax':
                assert not {alias.name for alias in node.names} & set(mmparax.__all__), path


def test_public_names():
    assert set(mmparax.__all__) == {'__version__', *mmparax._MODULES} <= set(dir(mmparax))
    assert len(mmparax.__all__) == len(set(mmparax.__all__))
    assert mmparax.count_parameters.__module__ == 'mmparax.backbones.parameters'
    assert mmparax.AdaptedSwin.__name__ == 'AdaptedSwin' and issubclass(mmparax.ParameterError, ValueError)
    with pytest.raises(AttributeError, match="'mmparax' has no attribute 'absent'"):
        mmparax.__getattr__('absent')


def test_type_checkers_see_every_public_name():
    """What is imported at first use is written down a second time for them."""
    with open(mmparax.__file__, encoding='utf-8') as file:
        block = file.read().split('if TYPE_CHECKING:\n')[1].split('\n__all__')[0]
    tree = ast.parse(textwrap.dedent(block))
    seen = {alias.name: node.module for node in tree.body for alias in node.names}
    assert set(seen) == set(mmparax._MODULES)
    for name, module in seen.items():
        assert module.startswith(mmparax._MODULES[name])


def test_beside_a_clone_its_folder_is_not_taken_for_the_package(tmp_path):
    """A clone is a folder called mmparax, and Python takes any folder of that name for an empty package if it finds no other."""
    clone = tmp_path / 'mmparax'
    shutil.copytree(ROOT / 'mmparax', clone / 'mmparax', ignore=shutil.ignore_patterns('__pycache__', 'zoo'))
    for name in ('pyproject.toml', 'setup.py', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, clone)
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', tmp_path / 'venv'], check=True)
    packages = next((tmp_path / 'venv').glob('lib/python*/site-packages'))
    (packages / 'those_of_the_tests.pth').write_text('\n'.join(site.getsitepackages()))
    python, alone = tmp_path / 'venv' / 'bin' / 'python', {**os.environ, 'PYTHONPATH': ''}
    # --ignore-installed: pip must not touch the environment that the tests run in
    pip = [python, '-m', 'pip', 'install', '--ignore-installed', '--no-deps', '--no-build-isolation', '-e', clone]
    done = subprocess.run(pip, text=True, capture_output=True, env=alone, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (packages / 'those_of_the_tests.pth').unlink()  # importing the package needs no other
    (tmp_path / 'script.py').write_text('import mmparax; print(mmparax.__file__, mmparax.ParameterError.__name__)')
    for command in (['-c', (tmp_path / 'script.py').read_text()], ['script.py']):
        done = subprocess.run([python, *command], text=True, capture_output=True, env=alone, cwd=tmp_path)
        assert done.stdout == f'{clone}/mmparax/__init__.py ParameterError\n', done.stderr
    done = subprocess.run([python, '-m', 'mmparax', '--version'], text=True, capture_output=True, env=alone, cwd=tmp_path)
    assert done.stdout == f'mmparax {mmparax.__version__}\n', done.stderr


def read_pairs(printed):
    """What ``python -m mmparax`` prints, as a dict."""
    return dict(line.split(None, 1) for line in printed.splitlines() if line.startswith('  '))


def ask(*blocked):
    """What it prints where some packages cannot be imported."""
    return read_pairs(run('from mmparax.__main__ import main; main([])', *blocked))


def test_the_package_says_what_it_finds(capsys):
    main([])
    said = read_pairs(capsys.readouterr().out)
    assert said['mmparax'].startswith(mmparax.__version__) and said['mmcv'].endswith(', with its operators')
    assert said['mmengine'].split()[0][0].isdigit() and said['torch'].split('+')[0] in torch.__version__
    assert {'GPU', 'mmdet', 'mmseg', 'mmpretrain', 'triton', 'onnx'} < set(said)
    assert said['taken'].removeprefix('here').split()[0] in ('cpu', 'triton', 'fused')
    assert said['tools'] == str(ROOT / 'tools') and Path(said['configs'], 'quickstart').is_dir()


def test_the_package_says_what_it_misses():
    said = ask('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'onnx', 'rich')
    assert said['mmengine'] == 'missing: pip install onedl-mmengine' and said['mmseg'].startswith('missing')
    assert said['onnx'] == 'missing: for export to ONNX' and said['tools'] == str(ROOT / 'tools')
    assert said['reference,'] == 'fused run wherever PyTorch does'
    said = ask('torch', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain')
    assert said['torch'] == 'missing' and said['GPU'] == 'unknown without torch' and said['none'] == 'without torch'


def test_the_package_says_when_mmcv_has_no_operators():
    assert ask('mmcv._ext')['mmcv'].split(', ', 1)[1] == \
        'WITHOUT its operators, so that detection and most of segmentation do not work (ModuleNotFoundError: import of ' \
        'mmcv._ext halted; None in sys.modules)'


def test_the_package_has_two_options(capsys):
    for option, text in (('--version', f'mmparax {mmparax.__version__}\n'), ('--help', 'usage: python -m mmparax')):
        with pytest.raises(SystemExit, match='0'):
            main([option])
        assert capsys.readouterr().out.startswith(text)
