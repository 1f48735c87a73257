"""The Triton kernels, without a GPU: interpreted against float64 references, compiled for GPUs that are not here.

The interpreter is switched on where a kernel is defined, and a compiler for a GPU replaces the driver, so both run in
processes of their own (``triton_cases.py``), started once for all cases.
"""
import functools
import json
import runpy
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from helpers.processes import run
from helpers.triton_cases import CASES
from mmparax.errors import ParameterError
from mmparax.ops import triton as operations
from mmparax.ops.triton import has_triton

# Shares of the largest value. Single precision rounds by 6e-8, and a gradient sums up to 400 products, some of which
# cancel. Half precision rounds results by 5e-4, and those that pass through outputs, mixes and gradients kept in it by
# that several times; bfloat16 has three bits less.
TOLERANCES = dict(float32=2e-5, float16=3e-3, bfloat16=2.4e-2)
PROGRAM = Path(__file__).parents[1] / 'helpers' / 'triton_cases.py'


@functools.lru_cache(None)
def results_of(task, **environment):
    """What ``triton_cases.py`` found."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'result.json'
        finished = run([sys.executable, PROGRAM, path, task], PROGRAM.parents[2], 1800, TRITON_CACHE_DIR=folder, **environment)
        assert finished.returncode == 0, finished.stdout
        return json.loads(path.read_text())


def interpreted(case_id, full=False):
    return results_of('full' if full else 'fast', TRITON_INTERPRET='1')[case_id]


@pytest.mark.parametrize('case', [pytest.param(case, id=case['id'], marks=[pytest.mark.full] * case['full']) for case in CASES])
def test_outputs_and_gradients_are_those_of_the_definition(case):
    result = interpreted(case['id'], case['full'])
    out_dtype = case['options'].get('out_dtype', case['dtype'])
    assert result['dtypes'][0] == f'torch.{out_dtype}' and result['dtypes'][1:] in ([], ['torch.float32'])
    tolerance = TOLERANCES[case['dtype']]
    errors = {
        name: error for name, error in result['errors'].items()
        if not error <= (TOLERANCES[out_dtype] if name == 'out0' else tolerance)
    }
    assert len(result['errors']) > 2 and not errors


def test_an_adapter_is_the_same_by_the_kernels():
    errors = interpreted('adapter')['errors']
    assert len(errors) > 20 and max(errors.values()) <= TOLERANCES['float32']


@pytest.mark.full
@pytest.mark.parametrize('capability', [80, 90])
def test_every_kernel_compiles_for_a_gpu(capability):
    found = results_of(str(capability))
    assert len(found['kernels']) > 8 and sorted(found['compiled']) == found['kernels']
    assert all(target.startswith(f'sm_{capability}') for targets in found['compiled'].values() for target in targets)


@pytest.fixture
def arguments():
    vector = torch.ones(4)
    return torch.ones(1, 6, 4), (2, 3), vector, vector, vector, 1e-5, torch.ones(4, 1, 3, 3), vector


def test_a_tensor_on_the_cpu_is_refused(arguments, monkeypatch):
    monkeypatch.setattr('mmparax.ops.triton.common.INTERPRETED', False)
    with pytest.raises(ParameterError, match="backend='triton' .* GPUs and this tensor is on 'cpu'. .*TRITON_INTERPRET=1"):
        operations.scaled_norm_conv(*arguments)


def test_double_precision_is_refused(arguments, monkeypatch):
    monkeypatch.setattr('mmparax.ops.triton.common.INTERPRETED', True)
    with pytest.raises(ParameterError, match="backend='triton' .* torch.float64"):
        operations.scaled_norm_conv(arguments[0].double(), *arguments[1:])


def test_without_triton_the_package_imports_and_says_what_is_missing(arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, 'triton', None)
    has_triton.cache_clear()
    try:
        fresh = runpy.run_path(operations.__file__)
        with pytest.raises(ParameterError, match="backend='triton' .* is not installed"):
            fresh['scaled_norm_conv'](*arguments)
    finally:
        has_triton.cache_clear()
