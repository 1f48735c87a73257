"""Functions that wait for a package to be imported."""
import importlib
import sys
from importlib.util import find_spec

import pytest

from mmparax.utils.imports import run_after_import


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that was not imported yet."""
    (tmp_path / 'late_package').mkdir()
    (tmp_path / 'late_package' / '__init__.py').write_text('value = 1\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    yield 'late_package'
    sys.modules.pop('late_package', None)


def test_functions_run_once_behind_the_first_import(package):
    seen = []
    for number in range(2):
        run_after_import(package, lambda number=number: seen.append((number, sys.modules[package].value)))
    assert find_spec(package) is not None and not seen  # looking for it is not importing it
    importlib.import_module(package)
    assert seen == [(0, 1), (1, 1)]
    importlib.reload(sys.modules[package])
    assert len(seen) == 2
    run_after_import(package, lambda: seen.append('at once'))
    assert seen[-1] == 'at once'


def test_a_package_that_is_absent_stays_absent():
    run_after_import('no_such_package', lambda: pytest.fail('it is not there'))
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module('no_such_package')
