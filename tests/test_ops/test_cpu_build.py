"""Compiling the operations in C: once for each machine, and only from a cache that is the user's own."""
import concurrent.futures
import ctypes
import os
import re
import shlex
import shutil
import stat
import subprocess
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from helpers.operations import assert_equal, out_conv_arguments
from mmparax.ops.compiler import find_compiler
from mmparax.ops.cpu import build
from mmparax.ops.cpu.cache import find_cache_folder
from mmparax.ops.cpu.signatures import FUNCTIONS, INT, Signature
from mmparax.ops.dispatch import describe_backend, select_backend, use_backend


@pytest.fixture(autouse=True)
def automatic():
    with use_backend('auto'):
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and no library in memory."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    build.load_library.cache_clear()
    yield tmp_path / 'cache' / 'mmparax' / 'cpu'
    build.load_library.cache_clear()


@pytest.fixture(scope='module')
def compiled():
    """A library that was compiled before."""
    return build.load_library(torch.float64).path


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
        library = build.load_library(dtype)
    return library, [str(each.message) for each in found]


def test_a_real_compiler_makes_what_the_next_process_loads(cache, compiled):
    library, messages = caught()
    kept = list(cache.iterdir())
    assert library is not None and not messages and len(kept) == 1 and kept[0].name == compiled.name
    assert library.has_openmp and library.functions.token_statistics


def test_the_second_process_does_not_compile_again(cache, compiler):
    calls = compiler()
    first, _ = caught()
    assert isinstance(first.functions, ctypes.CDLL) and len(calls()) == 2  # compiles, links
    build.load_library.cache_clear()
    second, messages = caught()
    assert second is not first and second.path == first.path and len(calls()) == 2 and not messages


@pytest.mark.parametrize('what', ['source', 'processor', 'type'])
def test_what_the_machine_code_depends_on_makes_another_file(cache, compiler, what, monkeypatch, tmp_path):
    compiler()
    first, _ = caught()
    build.load_library.cache_clear()
    if what == 'source':
        other = tmp_path / 'adapter.c'
        other.write_text('/* */' + build.SOURCES[0].read_text())
        monkeypatch.setattr(build, 'SOURCES', [other, *build.SOURCES[1:]])
    elif what == 'processor':
        monkeypatch.setattr(build, '_describe_processor', lambda: 'another')
    second, _ = caught(torch.float32 if what == 'type' else torch.float64)
    assert second.path != first.path and len(list(cache.iterdir())) == 2


def test_without_a_compiler_it_is_the_fused_path_and_nothing_is_said(cache, monkeypatch):
    monkeypatch.delenv('CC', raising=False)
    monkeypatch.setattr('mmparax.ops.compiler.shutil.which', lambda name: None)
    assert caught() == (None, []) and select_backend(torch.zeros(1)) == 'fused' and not cache.exists()


def test_a_compiler_that_was_asked_for_and_is_not_there_is_named(cache, monkeypatch):
    monkeypatch.setenv('CC', 'no-such-compiler')
    library, messages = caught()
    assert library is None and len(messages) == 1 and "CC='no-such-compiler' is no program here" in messages[0]
    assert select_backend(torch.zeros(1)) == 'fused' and not cache.exists()


@pytest.mark.parametrize('then', ['echo broken >&2; exit 1', 'kill -9 $$', 'exit 0'], ids=['fails', 'dies', 'makes nothing'])
def test_a_compiler_that_fails_is_named_once(cache, compiler, then):
    compiler(then)
    library, messages = caught()
    assert library is None and len(messages) == 1
    assert re.search('compiled with .*/some-cc; slower ones run instead. .+', messages[0])
    assert ('broken' in messages[0]) == ('broken' in then)
    assert caught() == (None, []) and select_backend(torch.zeros(1, dtype=torch.float64)) == 'fused'
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
    assert select_backend(torch.zeros(1, dtype=torch.float64)) == 'fused'


@pytest.mark.parametrize('share', [0, 0.01, 0.5, 0.99])
def test_a_broken_file_in_the_cache_is_made_anew(cache, compiler, share, monkeypatch):
    """Such as an interrupted copy of a home folder leaves behind: loaded, it would end the process."""
    calls = compiler()
    target = caught()[0].path
    whole = target.read_bytes()
    build.load_library.cache_clear()
    target.unlink()  # this process has the whole one loaded
    target.write_bytes(whole[:int(share * len(whole))])
    target.chmod(0o700)

    def load(path):
        if Path(path).read_bytes() != whole:
            raise OSError('the process would end here')
        return SimpleNamespace(**{name: SimpleNamespace() for name in FUNCTIONS})

    monkeypatch.setattr(ctypes, 'CDLL', load)
    library, messages = caught()
    assert library is not None and library.path == target and not messages and len(calls()) == 4
    assert list(cache.iterdir()) == [target]


def test_threads_that_ask_at_once_get_it(cache, compiler):
    compiler('sleep 0.1')
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        libraries = list(pool.map(lambda _: build.load_library.__wrapped__(torch.float64), range(4)))
    assert len({library.path for library in libraries}) == 1 and len(list(cache.iterdir())) == 1


def test_the_compiler_may_be_a_command_with_arguments(cache, compiler, tmp_path, monkeypatch):
    """Such as CC='ccache gcc'."""
    calls = compiler()
    wrapper = tmp_path / 'some-ccache'
    wrapper.write_text('#!/bin/sh\nexec "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv('CC', f'{wrapper} {os.environ["CC"]} -DSOME="a b"')
    library, messages = caught()
    assert library is not None and not messages
    assert len(calls()) == 3 and all(call.startswith('-DSOME=a b ') for call in calls())  # the version, too


@pytest.mark.parametrize('command', ["gcc '", '', '  '], ids=['open quotation', 'empty', 'blank'])
def test_a_command_that_is_none_is_no_compiler(monkeypatch, command):
    monkeypatch.setenv('CC', command)
    assert find_compiler() is None if command.strip() else find_compiler()


@pytest.mark.parametrize('threads', [[build.OPENMP], []], ids=['openmp', 'one thread'])
@pytest.mark.parametrize('dtype', build.REALS, ids=str)
def test_the_compiler_has_nothing_to_remark(tmp_path, dtype, threads):
    flags = [*build.FLAGS, *threads, f'-DREAL={build.REALS[dtype]}']
    assert {'-Wall', '-Wextra'} < set(flags)
    assert build.compile_library(tmp_path / 'adapter.so', find_compiler(), flags) == ''


def test_a_definition_that_is_not_that_of_the_table_does_not_compile(tmp_path, monkeypatch):
    result, arguments = FUNCTIONS['token_statistics']
    monkeypatch.setitem(FUNCTIONS, 'token_statistics', Signature(result, {**arguments, 'eps': INT}))
    with pytest.raises(subprocess.CalledProcessError) as caught_error:
        build.compile_library(tmp_path / 'adapter.so', find_compiler(), [*build.FLAGS, '-DREAL=float', '-fsyntax-only'])
    assert 'conflicting types' in caught_error.value.stderr and 'token_statistics' in caught_error.value.stderr


def test_without_openmp_it_runs_on_one_thread_and_that_is_said_once(cache, tmp_path, monkeypatch):
    script = tmp_path / 'some-cc'
    script.write_text('#!/bin/sh\ncase "$*" in *-fopenmp*) echo no such option >&2; exit 1;; esac\n'
                      f'exec {shlex.join(find_compiler())} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv('CC', str(script))
    library, messages = caught()
    assert not library.has_openmp and len(messages) == 1
    assert re.search('run on one thread: OpenMP .* with .*/some-cc. no such option', messages[0])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_equal('out_conv', out_conv_arguments(2, (3, 4), channels=9), 'cpu')
        assert describe_backend('cpu', torch.float64) == 'cpu (C, float64, 1 thread)'
    finally:
        torch.set_num_threads(threads)


# ---- the cache folder ----


def test_the_cache_folder_is_private_whatever_the_mask(cache, compiler):
    compiler()
    mask = os.umask(0)
    try:
        library, messages = caught()
    finally:
        os.umask(mask)
    assert not messages and stat.S_IMODE(cache.stat().st_mode) == stat.S_IMODE(library.path.stat().st_mode) == 0o700
    build.load_library.cache_clear()
    assert caught()[0].path == library.path


def make_link(path):
    path.rename(path.with_name('elsewhere'))
    path.symlink_to('elsewhere')


CHANGES = {
    'a link': make_link, 'written by other users': lambda path: path.chmod(0o770),
    'may be written': lambda path: path.chmod(0o702)
}


@pytest.mark.parametrize('what', ['folder', 'file'])
@pytest.mark.parametrize('why', CHANGES)
def test_a_cache_that_others_could_have_written_is_refused(cache, compiler, what, why):
    calls = compiler()
    path = caught()[0].path
    build.load_library.cache_clear()
    path = path if what == 'file' else cache
    CHANGES[why](path)
    library, messages = caught()
    assert library is None and len(messages) == 1 and len(calls()) == 2
    assert str(path) in messages[0] and why in messages[0] and 'XDG_CACHE_HOME' in messages[0]
    assert select_backend(torch.zeros(1, dtype=torch.float64)) == 'fused'


def test_another_users_cache_is_refused(cache, compiler, monkeypatch):
    compiler()
    path = caught()[0].path
    build.load_library.cache_clear()
    user = os.getuid()
    monkeypatch.setattr(os, 'getuid', lambda: user + 1)
    library, messages = caught()
    assert library is None and len(messages) == 1 and f'{str(cache)!r} belongs to another user (number {user})' in messages[0]
    monkeypatch.undo()
    assert path.is_file()


@pytest.mark.parametrize('given', ['', 'somewhere', '~/cache'])
def test_the_cache_folder_is_always_absolute(given, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', given)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert find_cache_folder() == tmp_path / '.cache' / 'mmparax' / 'cpu'
    monkeypatch.setattr(os.path, 'expanduser', lambda path: path)  # no $HOME, and a user whom the system does not know
    assert find_cache_folder().is_absolute() and str(os.getuid()) in str(find_cache_folder())
