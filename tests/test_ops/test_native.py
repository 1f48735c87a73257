"""The operations in C: maps in strips, channels in lanes, the same bits on any number of threads, and their compilation."""
import concurrent.futures
import ctypes
import gc
import re
import shlex
import shutil
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.operations import ARGUMENTS, FUNCTIONS, assert_equal, mixing_arguments, results, took
from mmparax.ops import mixing
from mmparax.ops.native import build
from mmparax.ops.native.functions import MAX_KERNELS
from mmparax.ops.paths import path_for, use_path

OPERATIONS = pytest.mark.parametrize('operation', list(ARGUMENTS))
CONVOLUTIONS = pytest.mark.parametrize('operation', ['norm_conv', 'out_conv'])
CHANNELS = [1, 7, 8, 9, 16, 17, 40]  # 8 or 16 share a task
WIDE = 300


@pytest.fixture(autouse=True)
def automatic():
    with use_path('auto'):
        yield


# ---- strips, lanes, kernels ----


def test_wide_maps_of_these_tests_need_several_strips():
    """Two maps of six rows do not fit into what a strip may take: a strip of a wide map has four rows, the fewest."""
    cache = next(re.search(r'#define CACHE \((\d+) \* 1024\)', path.read_text()) for path in build.SOURCES
                 if '#define CACHE' in path.read_text())
    assert 2 * (5 + 2) * (WIDE + 2) * 64 > int(cache[1]) * 1024


@CONVOLUTIONS
@pytest.mark.parametrize('height', [3, 4, 5, 8, 11])
def test_strips_join(operation, height):
    """Less than a strip, one, one and a row, a boundary exactly at the end, and a part of a third."""
    assert_equal(operation, ARGUMENTS[operation](1, (height, WIDE), channels=2), 'native')


@pytest.mark.full
@CONVOLUTIONS
@pytest.mark.parametrize('hw', [(12, WIDE), (13, WIDE), (1, 2000), (1100, 1), (9, 3100)], ids=str)
@pytest.mark.parametrize('channels', [9, 17])
def test_strips_of_more_maps_join(operation, hw, channels):
    assert_equal(operation, ARGUMENTS[operation](2, hw, channels=channels), 'native')


@OPERATIONS
@pytest.mark.parametrize('channels', CHANNELS)
def test_channels_beside_the_borders_of_lanes(operation, channels):
    assert_equal(operation, ARGUMENTS[operation](2, (4, 5), channels=channels), 'native')


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
    found, exact = results(operation, single, 'native'), results(operation, double, 'eager')
    # 2 images of 20 tokens and up to 40 channels: no sum has more than 40 * 40 terms, each rounded by 6e-8 of its size, and
    # the terms are as often too small as too large: 40 * 6e-8 of the largest value, and as much again for what goes in.
    errors = {name: ((found[name] - value).abs().max() / value.abs().max()).item() for name, value in exact.items()}
    assert len(errors) > 5 and not {name: error for name, error in errors.items() if not error < 5e-6}


@pytest.mark.parametrize('sizes', [(1, ), (1, 3), (9, 11), (11, 1, 3), (3, ) * MAX_KERNELS], ids=str)
@pytest.mark.parametrize('scored', [True, False])
@pytest.mark.parametrize('layout', mixing.LAYOUTS)
def test_kernels_of_any_size_and_number(sizes, scored, layout):
    arguments = mixing_arguments(2, (3, 4), sizes, layout, scored and len(sizes) > 1, channels=3)
    arguments['kernels'] = [(kernel / 2).detach().requires_grad_() for kernel in arguments['kernels']]
    assert_equal('mixing', arguments, 'native')


def test_more_kernels_than_it_has_room_for_take_the_fused_path():
    arguments = mixing_arguments(1, (2, 3), (1, ) * (MAX_KERNELS + 1))
    with use_path('native'):
        assert took('mixing', FUNCTIONS['mixing'](**arguments)) == 'fused'


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
    for count in (1, 2, 3, 2):
        threads(count)
        found.append(results(operation, given, 'native'))
    for other in found[1:]:
        assert not [name for name, value in found[0].items() if not torch.equal(value, other[name])]


@OPERATIONS
def test_several_threads_at_once(operation):
    arguments = ARGUMENTS[operation](2, (9, 31), channels=20)
    expected = results(operation, arguments, 'native')
    with use_path('native'), concurrent.futures.ThreadPoolExecutor(3) as pool:
        for found in pool.map(lambda _: results(operation, arguments, 'native'), range(6)):
            assert not [name for name, value in expected.items() if not torch.equal(value, found[name])]


@OPERATIONS
def test_nothing_is_held_when_the_graph_is_gone(operation):
    """Without waiting for the collector of cycles, which may come a gigabyte later."""
    arguments = ARGUMENTS[operation](2, (3, 4))
    gc.disable()
    try:
        with use_path('native'):
            out = FUNCTIONS[operation](**arguments)
        out = out[0] if isinstance(out, tuple) else out
        out.sum().backward()
        held = [weakref.ref(out), weakref.ref(out.grad_fn)]
        storage = torch.multiprocessing.reductions.StorageWeakRef(out.untyped_storage())
        del out
        assert storage.expired() and not any(reference() for reference in held)
    finally:
        gc.enable()


# ---- compiling ----


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and no library in memory."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    build.library.cache_clear()
    yield tmp_path / 'cache' / 'mmparax' / 'native'
    build.library.cache_clear()


@pytest.fixture(scope='module')
def compiled():
    """A library that was compiled before."""
    return build.library(torch.float64)._name


@pytest.fixture
def compiler(compiled, tmp_path, monkeypatch):
    """A stand-in for a compiler, which takes no time: makes a copy of a compiled library; and the calls that it got."""
    log, script = tmp_path / 'log', tmp_path / 'some-cc'
    copy = tmp_path / 'compiled.so'
    shutil.copy(compiled, copy)

    def make(then='true'):
        script.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(log))}\ncase "$*" in\n--version) echo 1.0;;\n*) {then};\n'
                          f'for last; do :; done; cp {shlex.quote(str(copy))} "$last";;\nesac\n')
        script.chmod(0o755)
        monkeypatch.setenv('CC', str(script))
        return lambda: [line for line in log.read_text().splitlines() if line != '--version'] if log.exists() else []

    return make


def caught(dtype=torch.float64):
    """The library, and the messages of warnings."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        library = build.library(dtype)
    return library, [str(each.message) for each in found]


def test_a_real_compiler_makes_what_the_next_process_loads(cache, compiled):
    library, messages = caught()
    kept = list(cache.iterdir())
    assert library is not None and not messages and len(kept) == 1 and kept[0].name == Path(compiled).name
    library.token_statistics  # noqa: B018, AttributeError if it is not there


def test_the_second_process_does_not_compile_again(cache, compiler):
    calls = compiler()
    first, _ = caught()
    assert isinstance(first, ctypes.CDLL) and len(calls()) == 2  # compiles, links
    build.library.cache_clear()
    second, messages = caught()
    assert second is not first and second._name == first._name and len(calls()) == 2 and not messages


@pytest.mark.parametrize('what', ['source', 'processor', 'type'])
def test_what_the_machine_code_depends_on_makes_another_file(cache, compiler, what, monkeypatch, tmp_path):
    compiler()
    first, _ = caught()
    build.library.cache_clear()
    if what == 'source':
        other = tmp_path / 'adapter.c'
        other.write_text('/* */' + build.SOURCES[0].read_text())
        monkeypatch.setattr(build, 'SOURCES', [other, *build.SOURCES[1:]])
    elif what == 'processor':
        monkeypatch.setattr(build, '_processor', lambda: 'another')
    second, _ = caught(torch.float32 if what == 'type' else torch.float64)
    assert second._name != first._name and len(list(cache.iterdir())) == 2


def test_without_a_compiler_it_is_the_fused_path_and_nothing_is_said(cache, monkeypatch):
    monkeypatch.setenv('CC', 'no-such-compiler')
    assert caught() == (None, []) and path_for(torch.zeros(1)) == 'fused' and not cache.exists()


@pytest.mark.parametrize('then', ['echo broken >&2; exit 1', 'kill -9 $$', 'exit 0'], ids=['fails', 'dies', 'makes nothing'])
def test_a_compiler_that_fails_is_named_once(cache, compiler, then):
    compiler(then)
    library, messages = caught()
    assert library is None and len(messages) == 1
    assert re.search('compiled with .*/some-cc; slower ones run instead. .+', messages[0])
    assert ('broken' in messages[0]) == ('broken' in then)
    assert caught() == (None, []) and path_for(torch.zeros(1, dtype=torch.float64)) == 'fused'
    assert not list(cache.iterdir())


def test_a_compiler_that_does_not_even_run_is_named(cache, tmp_path, monkeypatch):
    script = tmp_path / 'some-cc'
    script.write_text('#!/bin/sh\nexit 1\n')
    script.chmod(0o755)
    monkeypatch.setenv('CC', str(script))
    library, messages = caught()
    assert library is None and len(messages) == 1 and 'some-cc' in messages[0] and not cache.exists()


def test_a_folder_that_cannot_be_written_is_named(cache, compiler):
    calls = compiler()
    cache.parents[1].write_text('a file where the folder should be')
    library, messages = caught()
    assert library is None and len(messages) == 1 and str(cache.parents[1]) in messages[0] and not calls()
    assert path_for(torch.zeros(1, dtype=torch.float64)) == 'fused'


@pytest.mark.parametrize('share', [0, 0.01, 0.5, 0.99])
def test_a_broken_file_in_the_cache_is_made_anew(cache, compiler, share, monkeypatch):
    """Such as an interrupted copy of a home folder leaves behind: loaded, it would end the process."""
    calls = compiler()
    target = Path(caught()[0]._name)
    whole = target.read_bytes()
    build.library.cache_clear()
    target.write_bytes(whole[:int(share * len(whole))])

    def load(path):
        if Path(path).read_bytes() != whole:
            raise OSError('the process would end here')
        return SimpleNamespace(_name=path, strip_room=SimpleNamespace(), whole_room=SimpleNamespace())

    monkeypatch.setattr(ctypes, 'CDLL', load)
    library, messages = caught()
    assert library is not None and library._name == str(target) and not messages and len(calls()) == 4
    assert list(cache.iterdir()) == [target]


def test_threads_that_ask_at_once_get_it(cache, compiler):
    compiler('sleep 0.1')
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        libraries = list(pool.map(lambda _: build.library.__wrapped__(torch.float64), range(4)))
    assert len({library._name for library in libraries}) == 1 and len(list(cache.iterdir())) == 1
