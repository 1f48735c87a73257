"""Compiles ``adapter.c`` for this machine at its first use, and keeps the result for the next process."""
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Optional, Sequence

import torch

SOURCES = [Path(__file__).with_name(name) for name in ('adapter.c', 'maps.h')]
REALS = {torch.float32: 'float', torch.float64: 'double'}
FLAGS = ('-O3', '-march=native', '-fPIC', '-w')
SECONDS = 120


def compiler() -> Optional[str]:
    """The C compiler: ``$CC``, gcc, clang or cc, the first that there is; None on systems other than Linux."""
    names = [os.environ['CC']] if os.environ.get('CC') else ['gcc', 'clang', 'cc']
    return next(filter(None, map(shutil.which, names)), None) if sys.platform.startswith('linux') else None


def _processor() -> str:
    """What the machine code depends on: a home folder may be shared by machines of several kinds."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    features = next((line for line in lines if line.startswith(('flags', 'Features'))), '')
    return f'{platform.machine()} {" ".join(sorted(features.split()))}'


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS).stdout


def _folder() -> Path:
    return Path(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')) / 'mmparax' / 'native'


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _is_whole(target: Path) -> bool:
    """Whether the file is there as it was made: a process that loads a part of a library ends by a bus error."""
    content = target.read_bytes() if target.is_file() else b''
    return content[-32:] == _digest(content[:-32])


def _compile(target: Path, command: str, flags: Sequence[str]) -> None:
    """Compile and link; the file appears whole or not at all.

    Without OpenMP's library: PyTorch brings its own, and the threads of a second one would stand in its way.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        parts, whole = f'{folder}/adapter.o', f'{folder}/adapter.so'
        for line in ([command, *flags, '-c', str(SOURCES[0]), '-o', parts], [command, '-shared', parts, '-lm', '-o', whole]):
            _output(line)
        with open(whole, 'rb+') as file:  # the loader does not mind what follows
            file.write(_digest(file.read()))
        os.replace(whole, target)


@functools.lru_cache(None)
def library(dtype: torch.dtype) -> Optional[ctypes.CDLL]:
    """The operations for one type of number, or None where they cannot be had; that is said once, in a warning."""
    command, why = compiler(), ''
    if command is None or dtype not in REALS:
        return None
    for threads in (['-fopenmp'], []):
        flags = [*FLAGS, *threads, f'-DREAL={REALS[dtype]}']
        try:
            made_from = [*(path.read_text() for path in SOURCES), _output([command, '--version']), *flags, _processor()]
            key = hashlib.sha256('\n'.join(made_from).encode()).hexdigest()[:16]
            target = _folder() / f'adapter_{key}.so'
            if not _is_whole(target):
                _compile(target, command, flags)
            operations = ctypes.CDLL(str(target))
            operations.strip_room.restype = operations.whole_room.restype = ctypes.c_longlong
            return operations
        except (OSError, subprocess.SubprocessError) as error:
            why = (getattr(error, 'stderr', None) or str(error)).strip()
    warnings.warn(f'The fast operations for CPUs could not be compiled with {command}; slower ones run instead. {why}')
    return None
