"""Which backend an operation runs by, and what is said where it cannot."""
import runpy
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmparax.errors import ParameterError
from mmparax.ops import dispatch, triton
from mmparax.ops.dispatch import BACKENDS, describe_backend, get_backend, select_backend, use_backend


@pytest.fixture(autouse=True)
def automatic():
    with use_backend('auto'):
        yield


def test_an_unknown_backend_is_named_with_the_known_ones():
    with pytest.raises(ParameterError, match="backend='fast' is not allowed: .*" + '.*'.join(BACKENDS)):
        with use_backend('fast'):
            raise AssertionError('never entered')
    assert select_backend(torch.zeros(1)) == 'cpu'


def test_the_environment_variable_chooses_and_is_checked(monkeypatch):
    monkeypatch.setenv('MMPARAX_OPS', 'reference')
    fresh = runpy.run_path(dispatch.__file__)
    assert fresh['select_backend'](torch.zeros(1)) == 'reference'
    monkeypatch.setenv('MMPARAX_OPS', 'quick')
    with pytest.raises(ParameterError, match="^MMPARAX_OPS='quick' is not allowed: choose one of 'auto', .*'triton'.$"):
        runpy.run_path(dispatch.__file__)['select_backend'](torch.zeros(1))  # not at its import, where nobody could explain it


@pytest.mark.parametrize('backend, compiled, expected', [('auto', True, 'cpu'),
                                                         ('auto', False, 'fused'), ('fused', True, 'fused'),
                                                         ('fused', False, 'fused'), ('cpu', True, 'cpu')])
def test_single_and_double_precision_take_the_fastest_and_half_runs_by_the_reference(backend, compiled, expected, monkeypatch):
    monkeypatch.setattr(dispatch, 'load_library', lambda dtype: object() if compiled else None)
    x = torch.zeros(1)
    with use_backend(backend):
        assert select_backend(x) == select_backend(x.double()) == expected
        assert select_backend(x.bfloat16()) == select_backend(x.half()) == 'reference'
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert select_backend(x) == 'reference'
            with torch.autocast('cpu', enabled=False):
                assert select_backend(x) == expected


ON_GPU = SimpleNamespace(is_cuda=True, dtype=torch.float32, device=torch.device('cuda'))


@pytest.mark.parametrize('x, found', [(torch.zeros(1, dtype=torch.int64), "torch.int64 on 'cpu'"),
                                      (ON_GPU, "torch.float32 on 'cuda'")], ids=['int64', 'cuda'])
def test_cpu_names_what_it_cannot_take(x, found):
    with use_backend('cpu'), pytest.raises(
            ParameterError, match=f"^backend='cpu' is not allowed: this tensor is {found}, .*"
            "float32 and float64 on CPUs, .*Use backend 'auto'.$"):
        select_backend(x)


def test_an_empty_tensor_takes_no_pointers():
    assert select_backend(torch.zeros(0, 3)) == 'fused'


def test_a_stand_in_for_a_tensor_takes_no_pointers():
    with FakeTensorMode():
        assert select_backend(torch.zeros(2, 3)) == 'fused'


def test_cpu_is_refused_without_a_compiler(monkeypatch):
    monkeypatch.setattr(dispatch, 'load_library', lambda dtype: None)
    with use_backend('cpu'), pytest.raises(ParameterError, match="^backend='cpu' is not allowed: .* a C compiler.* 'auto'.$"):
        select_backend(torch.zeros(1))


@pytest.mark.parametrize('backend', BACKENDS)
def test_compiled_and_exported_graphs_run_by_the_reference(backend, monkeypatch):
    with use_backend(backend):
        traced = []
        torch.jit.trace(lambda x: traced.append(select_backend(x)) or x + 1, torch.zeros(1), check_trace=False)
        assert traced == ['reference']
        monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
        assert select_backend(torch.zeros(1)) == 'reference'


@pytest.mark.parametrize('installed, toolkit, capability, expected', [(True, '12.8', (8, 0), True), (True, '12.8', (9, 0), True),
                                                                      (True, '12.8', (7, 5), False), (True, None, (9, 4), False),
                                                                      (False, '12.8', (9, 0), False)])
def test_triton_runs_on_gpus_that_it_compiles_for(installed, toolkit, capability, expected, monkeypatch):
    monkeypatch.setattr(triton, 'has_triton', lambda: installed)
    monkeypatch.setattr(torch.version, 'cuda', toolkit)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert triton.runs_on.__wrapped__(torch.device('cuda:0')) == expected


@pytest.mark.parametrize('runs_triton, dtype, expected', [(True, torch.float32, 'triton'), (True, torch.float16, 'triton'),
                                                          (True, torch.float64, 'fused'), (False, torch.float32, 'fused'),
                                                          (False, torch.bfloat16, 'reference')])
def test_a_gpu_takes_triton_where_it_can(runs_triton, dtype, expected, monkeypatch):
    monkeypatch.setattr(dispatch, 'runs_on', lambda device: runs_triton)
    on_gpu = SimpleNamespace(is_cuda=True, dtype=dtype, device=torch.device('cuda'))
    assert select_backend(on_gpu) == expected
    with use_backend('reference'):
        assert select_backend(on_gpu) == 'reference'


def test_nested_choices_end_where_they_began():
    x = torch.zeros(1)
    with use_backend('reference'):
        with pytest.raises(KeyError):
            with use_backend('fused'):
                assert select_backend(x) == 'fused'
                raise KeyError
        assert select_backend(x) == 'reference'
    assert select_backend(x) == 'cpu'


@pytest.mark.parametrize('backend, dtype, autocast, expected',
                         [('auto', torch.float32, None, 'cpu (C, float32, 3 threads)'),
                          ('cpu', torch.float64, None, 'cpu (C, float64, 3 threads)'),
                          ('fused', torch.float32, None, 'fused (PyTorch, fused autograd functions, float32)'),
                          ('reference', torch.float64, None, 'reference (PyTorch, step by step, float64)'),
                          ('auto', torch.float32, torch.bfloat16, 'reference (PyTorch, step by step, bfloat16)'),
                          ('triton', torch.float32, None, 'triton (Triton kernels, float32)')])
def test_a_line_for_the_log_says_what_runs(backend, dtype, autocast, expected, monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 3)
    with use_backend(backend):
        assert get_backend() == backend and describe_backend('cpu', dtype, autocast) == expected
    assert not torch.is_autocast_enabled('cpu')


def test_a_backend_that_cannot_run_is_not_described():
    with use_backend('cpu'), pytest.raises(ParameterError, match="backend='cpu' is not allowed: .* torch.int64"):
        describe_backend('cpu', torch.int64)
