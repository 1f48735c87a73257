#!/usr/bin/env python3
"""Compile mmcv for the torch of this Python, in minutes: ``python tools/setup_mmcv.py [PIN] [--install]``.

Most of mmcv's C++ files spend their compile time on PyTorch's headers. With gcc they are compiled once here, as a
precompiled header, and without debug symbols; CUDA files are compiled as mmcv says. The wheel is kept per torch build,
Python and CPU/CUDA in ``$MMPARAX_WHEEL_DIR`` (default ``~/.cache/mmparax/wheels``) and used again. A compilation that was
stopped goes on when this is called again. Needs torch, setuptools, wheel and ninja in this Python, and a C++ compiler.
``PIN`` is the one of requirements.txt if it is not given; ``mmcv==2.1.0`` works, too. The last line printed is the wheel.
"""
# Written for any Python 3, as setup_env.py is.
import argparse
import contextlib
import errno
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time

try:
    import fcntl
except ImportError:  # Windows: no locks, and the plain way to compile
    fcntl = None

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GIGABYTE = 2**30  # what one job takes; one file of 78 takes two
COMPILE = '--compile'  # the first argument when ninja calls this file in the place of the compiler
SENTENCE = 3  # exit status: the last line on stderr says all there is to say
HEADER_NAME = 'torch_first.hpp'
HEADER = '#include <torch/types.h>\n#include <vector>\n'  # what mmcv's own first include stands for
DISK_FULL = 'the disk is full: compiling mmcv takes 1 GB below %s; make room and call this again.'
FAST_FLAGS = ['-g0', '-O2']


class SetupError(Exception):
    """A one-sentence reason why mmcv cannot be compiled."""


def say(text):
    print('[setup] ' + text, flush=True)


def read_free_memory():
    """Return the free memory in bytes, of the machine or of the container if that has less, or None if it is not known."""
    free = []
    with contextlib.suppress(OSError, AttributeError, ValueError):
        with open('/proc/meminfo') as file:
            free.append(int(re.search(r'MemAvailable:\s*(\d+) kB', file.read()).group(1)) * 1024)
    with contextlib.suppress(OSError, ValueError):
        with open('/sys/fs/cgroup/memory.max') as limit, open('/sys/fs/cgroup/memory.current') as used:
            free.append(int(limit.read()) - int(used.read()))
    return min(free) if free else None


def count_jobs():
    """Return how many files to compile at a time: ``MAX_JOBS``, or as many as cores and memory allow."""
    wanted = os.environ.get('MAX_JOBS', '').strip()
    if wanted:
        if not re.match('[0-9]+$', wanted) or int(wanted) < 1:
            raise SetupError('MAX_JOBS=%s is no number of compile jobs: set it to 1 or more, or unset it to use all cores.'
                             % wanted)
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    memory = read_free_memory()
    return cores if memory is None else max(1, min(cores, memory // GIGABYTE))


# In the place of the compiler.


def drop_file_arguments(arguments):
    """Return the flags of a compiler call: what remains without its source, its output and its list of dependencies."""
    flags, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in ('-o', '-MF', '-MT', '-MQ'):
            skip = True
        elif argument not in ('-c', '-MMD', '-MD') and not is_source(argument):
            flags.append(argument)
    return flags


def is_source(argument):
    return argument.endswith(('.cpp', '.cc', '.cxx')) and not argument.startswith('-')


def note(path, text):
    with open(path, 'w') as file:
        file.write(text)


def get_header(compiler, folder, flags):
    """Return the header that is compiled for these flags, or None; the first call that asks makes it.

    While one call makes it, the others do not wait for it but compile without.
    """
    base = os.path.join(folder, 'header-' + hashlib.sha256('\0'.join(compiler + flags).encode()).hexdigest()[:16])
    header, made, failed = base + '.hpp', base + '.hpp.gch', base + '.failed'
    if os.path.exists(made) or os.path.exists(failed):
        return header if os.path.exists(made) else None
    with open(base + '.lock', 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None
        if os.path.exists(made):
            return header
        start = time.time()
        shutil.copy(os.path.join(folder, HEADER_NAME), header)
        error = run_quietly(compiler + flags + ['-x', 'c++-header', header, '-o', base + '.new'])
        if error is None:
            os.replace(base + '.new', made)
            error = run_quietly(compiler + flags
                                + ['-x', 'c++', '-fsyntax-only', '-Werror=invalid-pch', '-include', header, os.devnull])
        if error is not None:
            if os.path.exists(made):
                os.remove(made)
            note(failed, error)
            return None
        note(base + '.seconds', '%.0f' % (time.time() - start))
        return header


def run_quietly(command):
    """Return None, or what the compiler says is wrong."""
    done = subprocess.run(command, stderr=subprocess.PIPE, universal_newlines=True, errors='replace')
    errors = [line for line in done.stderr.splitlines() if 'error' in line] or ['it said nothing']
    return errors[0] if done.returncode else None


def compile_file(arguments):
    """Call the real compiler; a C++ file gets the precompiled header first, and if that fails, the plain way."""
    compiler = shlex.split(os.environ['MMPARAX_CXX'])
    if '-c' in arguments and any(is_source(argument) for argument in arguments):
        arguments = arguments + FAST_FLAGS
        header = get_header(compiler, os.environ['MMPARAX_HEADERS'], drop_file_arguments(arguments))
        if header is not None:
            done = subprocess.call(compiler + ['-include', header] + arguments)
            if done <= 0:
                return abs(done)
    return subprocess.call(compiler + arguments)


# What is asked of the environment.


def import_torch():
    try:
        import torch
    except ImportError as error:
        raise SetupError('mmcv is compiled against the torch of %s, and torch cannot be imported there (%s): install it first.' %
                         (sys.executable, error)) from error
    return torch


def builds_for_cuda(torch):
    """Whether mmcv's own set-up compiles its CUDA operators."""
    return torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1'


def find_wheel_folder(torch):
    """Return the folder that keeps mmcv's wheels for exactly this torch build, Python and device kind."""
    base = os.environ.get('MMPARAX_WHEEL_DIR') or os.path.join(
        os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache'), 'mmparax', 'wheels')
    device = 'cuda' if builds_for_cuda(torch) else 'cpu'
    return os.path.abspath(
        os.path.join(base, 'torch-%s-%s-cp%d%d-%s' % ((torch.__version__, device) + sys.version_info[:2] +
                                                      (platform.machine(), ))))


def get_compiler():
    """Return the C++ compiler as a list of words."""
    words = shlex.split(os.environ.get('CXX', '')) or ['c++' if shutil.which('c++') else 'g++']
    if os.name != 'nt' and not shutil.which(words[0]):
        raise SetupError('a C++ compiler is needed to build mmcv and %s found: install gcc '
                         '(on Debian or Ubuntu: apt-get install build-essential).' %
                         ('CXX=%s was not' % words[0] if os.environ.get('CXX') else 'none was'))
    return words


def check_headers(include):
    """Stop if the folder ``include`` lacks Python's own headers."""
    header = os.path.join(include, 'Python.h')
    if not os.path.exists(header):
        raise SetupError('the Python headers are needed to build mmcv and %s does not exist: install them '
                         '(on Debian or Ubuntu: apt-get install python3-dev).' % header)


def check_toolkit(cuda, home, visible_gpus):
    """Stop if the CUDA operators cannot be compiled.

    Args:
        cuda: the CUDA version that torch was built for, or None.
        home: the folder of the CUDA toolkit, or None.
        visible_gpus: their number.
    """
    if not cuda:
        raise SetupError('FORCE_CUDA=1 asks for CUDA operators, but this torch was built without CUDA: install another '
                         '(`make setup TORCH=cu130`), or unset FORCE_CUDA.')
    if not visible_gpus and not os.environ.get('TORCH_CUDA_ARCH_LIST'):
        raise SetupError('FORCE_CUDA=1 without a GPU in sight needs TORCH_CUDA_ARCH_LIST, the compute capabilities to compile '
                         'for: 9.0 for an H100 or H200, 8.0 for an A100, 8.9 for an RTX 40.')
    remedy = 'install the CUDA %s toolkit (nvcc) and set CUDA_HOME, or call `CUDA_VISIBLE_DEVICES= make setup` to build for ' \
             'the CPU.' % cuda
    if home is None:
        raise SetupError('this machine has a GPU but not the CUDA compiler that mmcv is built with: ' + remedy)
    try:
        text = subprocess.check_output([os.path.join(home, 'bin', 'nvcc'), '--version'], universal_newlines=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError('the CUDA compiler in %s does not run (%s): %s' % (home, error, remedy)) from error
    found = re.search(r'release (\d+)\.(\d+)', text)
    if found and found.group(1) != cuda.split('.')[0]:
        raise SetupError('the CUDA compiler in %s is of CUDA %s.%s, but this torch was built for CUDA %s: %s' %
                         (home, found.group(1), found.group(2), cuda, remedy))


def check_environment(torch):
    get_compiler()
    check_headers(sysconfig.get_paths()['include'])
    if builds_for_cuda(torch):
        from torch.utils.cpp_extension import CUDA_HOME
        check_toolkit(torch.version.cuda, CUDA_HOME, torch.cuda.device_count())


# Building.


def read_pin():
    """Return the pin of mmcv in requirements.txt."""
    path = os.path.join(ROOT, 'requirements.txt')
    if not os.path.exists(path):
        raise SetupError('%s does not exist: say which mmcv to compile, as in `setup_mmcv.py onedl-mmcv==2.3.6`.' % path)
    with open(path) as file:
        return re.search(r'^onedl-mmcv==\S+', file.read(), re.MULTILINE).group(0)


def find_wheel(folder, pin):
    """Return the wheel of ``pin`` that is kept in ``folder``, or None."""
    prefix = pin.replace('-', '_').replace('==', '-') + '-'
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    kept = [name for name in names if name.startswith(prefix) and name.endswith('.whl')]
    return os.path.join(folder, kept[0]) if kept else None


@contextlib.contextmanager
def hold(path, folder):
    """Keep other set-ups from compiling in the same folder at the same time."""
    with open(path, 'w') as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                say('mmcv: another set-up compiles in %s: waiting for it' % folder)
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def get_sources(pin, folder):
    """Return the folder with mmcv's sources in ``folder``, downloaded unless an earlier call did that."""
    sources = os.path.join(folder, 'sources')
    if os.path.isdir(sources):
        return sources
    start = time.time()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        archives, unpacked = os.path.join(scratch, 'archives'), os.path.join(scratch, 'unpacked')
        name = re.split('[=<>!~]', pin)[0]
        done = subprocess.run([
            sys.executable, '-m', 'pip', 'download', '--no-deps', '--no-build-isolation', '--progress-bar', 'off', '--no-binary',
            name, '-d', archives, pin
        ], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, errors='replace')
        if done.returncode:
            if 'No space left on device' in done.stdout:
                raise SetupError(DISK_FULL % folder)
            sys.stderr.write(done.stdout)
            errors = [line for line in done.stdout.splitlines() if line.startswith('ERROR')] or ['pip said nothing']
            raise SetupError('the sources of %s could not be downloaded (%s): check the version and the network, and call this '
                             'again.' % (pin, errors[-1]))
        archive = os.path.join(archives, os.listdir(archives)[0])
        try:
            shutil.unpack_archive(archive, unpacked, **({} if archive.endswith('.zip') else {'filter': 'data'}))
        except TypeError:  # a Python of before that safeguard
            shutil.unpack_archive(archive, unpacked)
        os.replace(os.path.join(unpacked, os.listdir(unpacked)[0]), sources)
    say('mmcv: sources downloaded in %.0f s' % (time.time() - start))
    return sources


def prepare_fast_way(folder, compiler):
    """Return the variables that make the build call this file in the place of the compiler, or None for the plain way."""
    macros = subprocess.run(compiler + ['-dM', '-E', '-x', 'c++', os.devnull], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            universal_newlines=True) if fcntl is not None else None
    if macros is None or macros.returncode or '__GNUC__' not in macros.stdout or '__clang__' in macros.stdout:
        say('mmcv: %s is not gcc, so there is no precompiled header: compiling takes longer' % ' '.join(compiler))
        return None
    stand_in = os.path.join(folder, 'g++')
    note(os.path.join(folder, HEADER_NAME), HEADER)
    for name in os.listdir(folder):
        if name.endswith('.failed'):
            os.remove(os.path.join(folder, name))
    # PyTorch takes one word as the compiler, so a file must hold the words of the call.
    note(stand_in, '#!/bin/sh\nexec %s -S %s %s "$@"\n' %
         (shlex.quote(sys.executable), shlex.quote(os.path.abspath(__file__)), COMPILE))
    os.chmod(stand_in, 0o755)
    return {'CXX': stand_in, 'MMPARAX_CXX': ' '.join(shlex.quote(word) for word in compiler), 'MMPARAX_HEADERS': folder}


def run_build(sources, out, variables, log_path):
    """Run pip's build of the wheel with its output in a log; say how far it is."""
    start, shown = time.time(), time.time()
    command = [
        sys.executable, '-m', 'pip', 'wheel', '-v', '--no-build-isolation', '--no-deps', '--no-cache-dir', '-w', out, sources
    ]
    with open(log_path, 'w', buffering=1) as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True,
                                   errors='replace', env=dict(os.environ, **variables))
        for line in process.stdout:
            log.write(line)
            step = re.match(r'\s*\[(\d+)/(\d+)\]', line)
            if step and time.time() - shown > 30:
                shown = time.time()
                say('mmcv: compiled %s of %s files (%.0f s)' % (step.group(1), step.group(2), shown - start))
        process.wait()
    if process.returncode:
        with open(log_path) as log:
            text = log.read()
        if 'No space left on device' in text:
            raise SetupError(DISK_FULL % os.path.dirname(log_path))
        if 'Killed signal' in text:
            raise SetupError('the memory was too small to compile mmcv: call this again with MAX_JOBS=1, and it goes on '
                             '(a job takes 1 to 2 GB).')
        sys.stderr.write('\n'.join(text.splitlines()[-40:]) + '\n')
        raise SetupError('compiling mmcv failed; the lines above are the end of %s.' % log_path)
    return time.time() - start


def tell_of_header(folder):
    """Return how the precompiled header went, as part of a sentence."""
    for name in sorted(os.listdir(folder)):
        if name.endswith(('.seconds', '.failed')):
            with open(os.path.join(folder, name)) as file:
                text = file.read()
            return ' with PyTorch\'s headers precompiled in %s s' % text if name.endswith('.seconds') else \
                ' the plain way, because PyTorch\'s headers could not be precompiled (%s)' % text
    return ' the plain way'


def get_wheel(pin, plain=False):
    """Return the path of mmcv's wheel for this environment, compiled if no earlier call has kept it."""
    torch = import_torch()
    folder = find_wheel_folder(torch)
    kept = find_wheel(folder, pin)
    if kept:
        say('mmcv: using the wheel kept in %s' % folder)
        return kept
    jobs = count_jobs()
    check_environment(torch)
    build = os.path.join(folder, 'build-' + pin)
    os.makedirs(build, exist_ok=True)
    with hold(os.path.join(folder, '.lock'), build):
        kept = find_wheel(folder, pin)  # by the set-up that was waited for
        if kept:
            return kept
        os.makedirs(build, exist_ok=True)
        sources = get_sources(pin, build)
        say('mmcv: compiling %s against torch %s for %s, once, %d file%s at a time' %
            (pin, torch.__version__, 'CUDA' if builds_for_cuda(torch) else 'the CPU', jobs, 's' * (jobs > 1)))
        fast = None if plain else prepare_fast_way(build, get_compiler())
        with tempfile.TemporaryDirectory(dir=build) as out:
            seconds = run_build(sources, out, dict(fast or {}, MAX_JOBS=str(jobs)), os.path.join(build, 'build.log'))
            say('mmcv: compiled in %.0f s%s' % (seconds, tell_of_header(build)))
            name = [name for name in os.listdir(out) if name.endswith('.whl')][0]
            os.replace(os.path.join(out, name), os.path.join(folder, name))
        shutil.rmtree(build, ignore_errors=True)
    return os.path.join(folder, name)


def main(arguments):
    if arguments[:1] == [COMPILE]:
        return compile_file(arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('pin', nargs='?', metavar='PIN', help='what to compile (default: the onedl-mmcv of requirements.txt)')
    parser.add_argument('--install', action='store_true', help='install the wheel into this Python, with what it needs')
    parser.add_argument('--plain', action='store_true', help="compile as mmcv's own set-up does, without a precompiled header")
    parser.add_argument('--check', action='store_true', help='only check MAX_JOBS and print how many jobs there would be')
    parser.add_argument('--folder', action='store_true', help='only print the folder that keeps the wheels for this torch')
    given = parser.parse_args(arguments)
    try:
        if given.check:
            print(count_jobs())
            return 0
        if given.folder:
            print(find_wheel_folder(import_torch()))
            return 0
        pin = given.pin or read_pin()
        if not re.match(r'[A-Za-z0-9._-]+==[^=\s]+$', pin):
            raise SetupError('PIN=%s is not allowed: give a name and one version, as in mmcv==2.1.0.' % pin)
        wheel = get_wheel(pin, given.plain)
        # pip leaves an mmcv of the same version in place, though it may have been built against another torch.
        if given.install:
            pip = [sys.executable, '-m', 'pip', 'install', '--progress-bar', 'off']
            if subprocess.call(pip + [wheel]) or subprocess.call(pip + ['--no-deps', '--force-reinstall', wheel]):
                raise SetupError('mmcv is compiled, but installing %s failed: the lines above say why.' % wheel)
        print(wheel, flush=True)
        return 0
    except SetupError as error:
        sys.stderr.write('[setup] %s\n' % error)
        return SENTENCE
    except OSError as error:
        remedy = 'make room' if error.errno == errno.ENOSPC else 'check that the path exists and can be written'
        sys.stderr.write('[setup] %s: %s, and call this again.\n' % (error, remedy))
        return SENTENCE
    except KeyboardInterrupt:
        sys.stderr.write('\n[setup] stopped; call it again to go on.\n')
        return 130


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
