"""Which path an operation takes, and what is said where it cannot."""
import runpy
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmparax.errors import ParameterError
from mmparax.ops import paths
from mmparax.ops.paths import PATHS, path_for, use_path


@pytest.fixture(autouse=True)
def automatic():
    with use_path('auto'):
        yield


def test_an_unknown_path_is_named_with_the_known_ones():
    with pytest.raises(ParameterError, match="path='fast' is not allowed: .*" + '.*'.join(PATHS)):
        with use_path('fast'):
            raise AssertionError('never entered')
    assert path_for(torch.zeros(1)) == 'native'


def test_the_environment_variable_chooses_and_is_checked(monkeypatch):
    monkeypatch.setenv('MMPARAX_OPS', 'eager')
    fresh = runpy.run_path(paths.__file__)
    assert fresh['path_for'](torch.zeros(1)) == 'eager'
    monkeypatch.setenv('MMPARAX_OPS', 'quick')
    with pytest.raises(ParameterError, match="^MMPARAX_OPS='quick' is not allowed: choose one of 'auto', .*'triton'.$"):
        runpy.run_path(paths.__file__)


@pytest.mark.parametrize('path, compiled, expected', [
    ('auto', True, 'native'), ('auto', False, 'fused'), ('fused', True, 'fused'), ('fused', False, 'fused'),
    ('native', True, 'native')])
def test_single_and_double_precision_take_the_fastest_and_half_runs_eagerly(path, compiled, expected, monkeypatch):
    monkeypatch.setattr(paths, 'native_library', lambda dtype: object() if compiled else None)
    x = torch.zeros(1)
    with use_path(path):
        assert path_for(x) == path_for(x.double()) == expected
        assert path_for(x.bfloat16()) == path_for(x.half()) == 'eager'
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert path_for(x) == 'eager'
            with torch.autocast('cpu', enabled=False):
                assert path_for(x) == expected


ON_GPU = SimpleNamespace(is_cuda=True, dtype=torch.float32, device=torch.device('cuda'))


@pytest.mark.parametrize('x, found', [(torch.zeros(1, dtype=torch.int64), "torch.int64 on 'cpu'"),
                                      (ON_GPU, "torch.float32 on 'cuda'")], ids=['int64', 'cuda'])
def test_native_names_what_it_cannot_take(x, found):
    with use_path('native'), pytest.raises(ParameterError, match=f"^path='native' is not allowed: this tensor is {found}, .*"
                                                                 "float32 and float64 on CPUs, .*Use path 'auto'.$"):
        path_for(x)


def test_an_empty_tensor_takes_no_pointers():
    assert path_for(torch.zeros(0, 3)) == 'fused'


def test_a_stand_in_for_a_tensor_takes_no_pointers():
    with FakeTensorMode():
        assert path_for(torch.zeros(2, 3)) == 'fused'


def test_native_is_refused_without_a_compiler(monkeypatch):
    monkeypatch.setattr(paths, 'native_library', lambda dtype: None)
    with use_path('native'), pytest.raises(ParameterError, match="^path='native' is not allowed: .* a C compiler.* 'auto'.$"):
        path_for(torch.zeros(1))


@pytest.mark.parametrize('path', PATHS)
def test_compiled_and_exported_graphs_are_eager(path, monkeypatch):
    with use_path(path):
        traced = []
        torch.jit.trace(lambda x: traced.append(path_for(x)) or x + 1, torch.zeros(1), check_trace=False)
        assert traced == ['eager']
        monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
        assert path_for(torch.zeros(1)) == 'eager'


@pytest.mark.parametrize('installed, toolkit, capability, expected', [
    (True, '12.8', (8, 0), True), (True, '12.8', (9, 0), True), (True, '12.8', (7, 5), False), (True, None, (9, 4), False),
    (False, '12.8', (9, 0), False)])
def test_triton_runs_on_gpus_that_it_compiles_for(installed, toolkit, capability, expected, monkeypatch):
    monkeypatch.setattr(paths, 'has_triton', lambda: installed)
    monkeypatch.setattr(torch.version, 'cuda', toolkit)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert paths.runs_triton.__wrapped__(torch.device('cuda:0')) == expected


@pytest.mark.parametrize('runs_triton, dtype, expected', [
    (True, torch.float32, 'triton'), (True, torch.float16, 'triton'), (True, torch.float64, 'fused'),
    (False, torch.float32, 'fused'), (False, torch.bfloat16, 'eager')])
def test_a_gpu_takes_triton_where_it_can(runs_triton, dtype, expected, monkeypatch):
    monkeypatch.setattr(paths, 'runs_triton', lambda device: runs_triton)
    on_gpu = SimpleNamespace(is_cuda=True, dtype=dtype, device=torch.device('cuda'))
    assert path_for(on_gpu) == expected
    with use_path('eager'):
        assert path_for(on_gpu) == 'eager'


def test_nested_choices_end_where_they_began():
    x = torch.zeros(1)
    with use_path('eager'):
        with pytest.raises(KeyError):
            with use_path('fused'):
                assert path_for(x) == 'fused'
                raise KeyError
        assert path_for(x) == 'eager'
    assert path_for(x) == 'native'
