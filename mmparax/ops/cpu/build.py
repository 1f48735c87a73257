"""Compiles ``adapter.c`` for this machine at its first use, and keeps the result for the next process."""
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mmparax.ops.compiler import find_compiler
from mmparax.ops.cpu.cache import UntrustedCacheError, check_private, find_cache_folder, make_private_folder
from mmparax.ops.cpu.signatures import declare, write_prototypes

SOURCES = [Path(__file__).with_name(name) for name in ('adapter.c', 'maps.h')]
REALS = {torch.float32: 'float', torch.float64: 'double'}
# No program calls these functions with vectors as arguments, of which -Wpsabi speaks: they are inlined.
FLAGS = ['-O3', '-march=native', '-fPIC', '-Wall', '-Wextra', '-Wmissing-prototypes', '-Wno-psabi']
# Without OpenMP's library: PyTorch brings its own, and the threads of a second one would stand in its way.
LINK_FLAGS = ['-shared']
OPENMP = '-fopenmp'
SECONDS = 120
FAILURES = (OSError, AttributeError, subprocess.SubprocessError)


class Library(NamedTuple):
    """The compiled operations for one type of number.

    Attributes:
        path: of the file.
        functions: those of the table in ``signatures.py``.
        has_openmp: whether they run on several threads.
    """
    path: Path
    functions: ctypes.CDLL
    has_openmp: bool


def _describe_processor() -> str:
    """What the machine code depends on: a home folder may be shared by machines of several kinds."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    features = next((line for line in lines if line.startswith(('flags', 'Features'))), '')
    return f'{platform.machine()} {" ".join(sorted(features.split()))}'


def _run(command: Sequence[str]) -> 'subprocess.CompletedProcess[str]':
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)


def _compute_digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _is_whole(target: Path) -> bool:
    """Whether the file is there as it was made: a process that loads a part of a library ends by a bus error."""
    content = target.read_bytes() if target.is_file() else b''
    return content[-32:] == _compute_digest(content[:-32])


def compile_library(target: Path, compiler: Sequence[str], flags: Sequence[str]) -> str:
    """Compile and link; the file appears whole or not at all. Gives the compiler's warnings."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        prototypes, parts, whole = (f'{folder}/{name}' for name in ('prototypes.h', 'adapter.o', 'adapter.so'))
        Path(prototypes).write_text(write_prototypes())
        said = _run([*compiler, *flags, '-include', prototypes, '-c', str(SOURCES[0]), '-o', parts]).stderr
        said += _run([*compiler, *LINK_FLAGS, parts, '-lm', '-o', whole]).stderr
        with open(whole, 'rb+') as file:  # the loader does not mind what follows
            file.write(_compute_digest(file.read()))
        os.chmod(whole, stat.S_IRWXU)
        os.replace(whole, target)
    return said


def prepare_library(dtype: torch.dtype, compiler: Sequence[str], threads: Sequence[str]) -> Path:
    """The file of the operations, in the cache; compiled before if it is not there.

    Args:
        dtype: a key of ``REALS``.
        compiler: its command.
        threads: ``[OPENMP]``, or nothing.

    Raises:
        UntrustedCacheError: if the cache could hold another user's code.
        OSError, subprocess.SubprocessError: if it cannot be compiled, or not be written.
    """
    flags = [*FLAGS, *threads, f'-DREAL={REALS[dtype]}']
    made_from = [
        *(path.read_text() for path in SOURCES),
        write_prototypes(),
        _run([*compiler, '--version']).stdout, *flags, *LINK_FLAGS,
        _describe_processor()
    ]
    key = hashlib.sha256('\n'.join(made_from).encode()).hexdigest()[:16]
    target = find_cache_folder() / f'adapter_{key}.so'
    make_private_folder(target.parent)
    if os.path.lexists(target):
        check_private(target)
    if not _is_whole(target):
        compile_library(target, compiler, flags)
    return target


def open_library(target: Path, has_openmp: bool) -> Library:
    """Load a compiled file, with the arguments of its functions declared."""
    functions = ctypes.CDLL(str(target))
    declare(functions)
    return Library(target, functions, has_openmp)


def _explain(error: Exception) -> str:
    return (getattr(error, 'stderr', None) or str(error)).strip()


@functools.lru_cache(None)
def load_library(dtype: torch.dtype) -> Library | None:
    """The operations for one type of number, or None where they cannot be had; that is said once, in a warning."""
    compiler = find_compiler()
    if compiler is None and os.environ.get('CC') and sys.platform.startswith('linux'):
        warnings.warn(f"AdaRoute's operations in C do not run, slower ones do: CC={os.environ['CC']!r} is no program here.",
                      stacklevel=2)
    if compiler is None or dtype not in REALS:
        return None
    name, errors = shlex.join(compiler), []
    for threads in ([OPENMP], []):
        try:
            library = open_library(prepare_library(dtype, compiler, threads), bool(threads))
        except UntrustedCacheError as error:
            warnings.warn(f"AdaRoute's operations in C do not run, slower ones do: {error}.", stacklevel=2)
            return None
        except FAILURES as error:
            errors.append(_explain(error))
            continue
        if errors:
            warnings.warn(f"AdaRoute's operations in C run on one thread: OpenMP could not be had with {name}. {errors[0]}",
                          stacklevel=2)
        return library
    warnings.warn(f"AdaRoute's operations in C could not be compiled with {name}; slower ones run instead. {errors[-1]}",
                  stacklevel=2)
    return None
