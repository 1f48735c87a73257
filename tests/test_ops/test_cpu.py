"""The operations in C: maps in strips, channels in lanes, the same bits on any number of threads, calls that are checked."""
import concurrent.futures
import ctypes
import gc
import weakref

import pytest
import torch

from helpers.operations import ARGUMENTS, FUNCTIONS, assert_equal, compute_all, find_backend, mixing_arguments
from mmparax.ops.cpu import calling
from mmparax.ops.cpu.build import load_library
from mmparax.ops.cpu.mixing import MAX_KERNELS
from mmparax.ops.cpu.signatures import FUNCTIONS as DECLARED
from mmparax.ops.dispatch import use_backend
from mmparax.ops.reference.mixing import LAYOUTS

OPERATIONS = pytest.mark.parametrize('operation', list(ARGUMENTS))
CONVOLUTIONS = pytest.mark.parametrize('operation', ['norm_conv', 'out_conv'])
CHANNELS = [1, 7, 8, 9, 16, 17, 40]  # 8 or 16 share a task
WIDE = 300


@pytest.fixture(autouse=True)
def automatic():
    with use_backend('auto'):
        yield


# ---- strips, lanes, kernels ----


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_wide_maps_of_these_tests_need_several_strips(dtype):
    """A strip of a wide map has four rows, the fewest: memory for it stops to grow with the height."""
    like = torch.zeros(1, dtype=dtype)
    three, four, five, many = (calling.measure_strips(like, (height, WIDE), 2) for height in (3, 4, 5, 100))
    assert three < four == five == many


@CONVOLUTIONS
@pytest.mark.parametrize('height', [3, 4, 5, 8, 11])
def test_strips_join(operation, height):
    """Less than a strip, one, one and a row, a boundary exactly at the end, and a part of a third."""
    assert_equal(operation, ARGUMENTS[operation](1, (height, WIDE), channels=2), 'cpu')


@pytest.mark.full
@CONVOLUTIONS
@pytest.mark.parametrize('hw', [(12, WIDE), (13, WIDE), (1, 2000), (1100, 1), (9, 3100)], ids=str)
@pytest.mark.parametrize('channels', [9, 17])
def test_strips_of_more_maps_join(operation, hw, channels):
    assert_equal(operation, ARGUMENTS[operation](2, hw, channels=channels), 'cpu')


@OPERATIONS
@pytest.mark.parametrize('channels', CHANNELS)
def test_channels_beside_the_borders_of_lanes(operation, channels):
    assert_equal(operation, ARGUMENTS[operation](2, (4, 5), channels=channels), 'cpu')


def in_single_precision(arguments):
    """The same numbers in float32 and in float64."""

    def change(value, double):
        if isinstance(value, list):
            return [change(each, double) for each in value]
        if not isinstance(value, torch.Tensor):
            return value
        single = value.detach().float()
        return (single.double() if double else single).requires_grad_()

    return ({name: change(value, double) for name, value in arguments.items()} for double in (False, True))


@OPERATIONS
@pytest.mark.parametrize('channels', CHANNELS[1:])  # one channel has no spread, and the norm divides by it
def test_single_precision_rounds_and_no_more(operation, channels):
    single, double = in_single_precision(ARGUMENTS[operation](2, (4, 5), channels=channels))
    found, exact = compute_all(operation, single, 'cpu'), compute_all(operation, double, 'reference')
    # 2 images of 20 tokens and up to 40 channels: no sum has more than 40 * 40 terms, each rounded by 6e-8 of its size, and
    # the terms are as often too small as too large: 40 * 6e-8 of the largest value, and as much again for what goes in.
    errors = {name: ((found[name] - value).abs().max() / value.abs().max()).item() for name, value in exact.items()}
    assert len(errors) > 5 and not {name: error for name, error in errors.items() if not error < 5e-6}


@pytest.mark.parametrize('sizes', [(1, ), (1, 3), (9, 11), (11, 1, 3), (3, ) * MAX_KERNELS], ids=str)
@pytest.mark.parametrize('scored', [True, False])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_kernels_of_any_size_and_number(sizes, scored, layout):
    arguments = mixing_arguments(2, (3, 4), sizes, layout, scored and len(sizes) > 1, channels=3)
    arguments['kernels'] = [(kernel / 2).detach().requires_grad_() for kernel in arguments['kernels']]
    assert_equal('mixing', arguments, 'cpu')


def test_more_kernels_than_it_has_room_for_take_the_fused_path():
    arguments = mixing_arguments(1, (2, 3), (1, ) * (MAX_KERNELS + 1))
    with use_backend('cpu'):
        assert find_backend('mixing', FUNCTIONS['mixing'](**arguments)) == 'fused'


# ---- threads and memory ----


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@OPERATIONS
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_the_same_bits_on_any_number_of_threads_and_in_every_run(operation, dtype, threads):
    arguments = ARGUMENTS[operation](2, (9, 31), channels=40)
    single, double = in_single_precision(arguments)
    given, found = single if dtype == torch.float32 else double, []
    for count in (1, 2, 3, 2, 64):  # the last are more than there are tasks
        threads(count)
        found.append(compute_all(operation, given, 'cpu'))
    for other in found[1:]:
        assert not [name for name, value in found[0].items() if not torch.equal(value, other[name])]


@OPERATIONS
def test_several_threads_at_once(operation):
    arguments = ARGUMENTS[operation](2, (9, 31), channels=20)
    expected = compute_all(operation, arguments, 'cpu')
    with use_backend('cpu'), concurrent.futures.ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: compute_all(operation, arguments, 'cpu'), range(6)):
            assert not [name for name, value in expected.items() if not torch.equal(value, found[name])]


@OPERATIONS
def test_nothing_is_held_when_the_graph_is_gone(operation):
    """Without waiting for the collector of cycles, which may come a gigabyte later."""
    arguments = ARGUMENTS[operation](2, (3, 4))
    gc.disable()
    try:
        with use_backend('cpu'):
            out = FUNCTIONS[operation](**arguments)
        out = out[0] if isinstance(out, tuple) else out
        out.sum().backward()
        held = [weakref.ref(out), weakref.ref(out.grad_fn)]
        storage = torch.multiprocessing.reductions.StorageWeakRef(out.untyped_storage())
        del out
        assert storage.expired() and not any(reference() for reference in held)
    finally:
        gc.enable()


@pytest.mark.parametrize('batch, channels, parts', [(1, 8, 1), (1, 9, 2), (2, 9, 4), (3, 40, 8)])
def test_scratch_memory_is_for_as_many_threads_as_there_are_tasks(batch, channels, parts, threads, monkeypatch):
    """Eight channels in float64 are a task, and eight threads are asked for."""
    given, call = [], calling.call
    monkeypatch.setattr(calling, 'call', lambda name, like, **arguments: (given.append(arguments), call(name, like, **arguments)))
    threads(8)
    assert_equal('out_conv', ARGUMENTS['out_conv'](batch, (3, 4), channels=channels), 'cpu')
    assert len(given) == 2
    assert all(arguments['scratch'].numel() == parts * arguments['room'] and arguments['threads'] == 8 for arguments in given)


# ---- calls ----


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_every_function_of_the_table_is_declared(dtype):
    functions = load_library(dtype).functions
    for name, (result, arguments) in DECLARED.items():
        function = getattr(functions, name)
        assert function.argtypes == [kind.ctype for kind in arguments.values()]
        assert function.restype == (result and result.ctype)


def test_a_number_of_another_type_is_no_argument():
    with pytest.raises(ctypes.ArgumentError):
        calling.measure_strips(torch.zeros(1), (3., 4), 2)


def statistics(**changes):
    x = torch.randn(2, 3, 4)
    arguments = dict(x=x, mean=x.new_empty(6), rstd=x.new_empty(6), tokens=6, channels=4, eps=1e-5, threads=1, **changes)
    calling.call('token_statistics', x, **arguments)
    return arguments


def test_what_is_read_is_converted():
    wide = torch.randn(4, 6, dtype=torch.float64).t()
    found = statistics()
    x = torch.zeros(1)
    calling.call('token_statistics', x, **{**found, 'x': wide})
    torch.testing.assert_close(found['mean'], wide.mean(1).float())


@pytest.mark.parametrize('mean', [torch.empty(6, dtype=torch.float64), torch.empty(12)[::2]], ids=['type', 'strides'])
def test_what_is_written_must_be_as_it_is_wanted(mean):
    found = statistics()
    with pytest.raises(TypeError, match='token_statistics writes mean, which must be contiguous and torch.float32'):
        calling.call('token_statistics', found['x'], **{**found, 'mean': mean})


def test_arguments_are_those_of_the_table():
    with pytest.raises(TypeError, match='token_statistics takes x, mean, rstd, tokens, .*; it was given .*, size'):
        statistics(size=1)
    found = statistics()
    del found['eps']
    with pytest.raises(TypeError, match='token_statistics takes'):
        calling.call('token_statistics', found['x'], **found)
