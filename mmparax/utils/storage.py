"""Writes files so that a reader sees either the old content or the new one; imports no toolbox."""
import os
import tempfile
from pathlib import Path

from mmparax.errors import StorageError

RESUME = 'The checkpoints that were there before are whole: make room, then resume the run.'


def write(path: str | Path, content: bytes, remedy: str = RESUME) -> None:
    """Write a file whole: to a temporary neighbour first, forced to the disk, then renamed over ``path``.

    Raises:
        StorageError: if that failed; what was at ``path`` is still there and nothing new is.
    """
    path = Path(path)
    part = path.with_name(f'.{path.name}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        if os.name == 'posix':  # elsewhere a folder cannot be opened
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # the rename itself
            finally:
                os.close(folder)
    except OSError as error:
        try:
            part.unlink()
        except OSError:
            pass
        raise StorageError(f'{str(path)!r} ({len(content) / 2**20:.1f} MiB) could not be written: {error.strerror or error}. '
                           f'{remedy}') from error


def check_writable(folder: str | Path, remedy: str = 'Choose another folder.') -> None:
    """Make a folder unless it exists, and check that files can be written to it: better before a long job than behind it.

    Raises:
        StorageError: if it is a file, cannot be made, or cannot be written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(f'the folder {str(folder)!r} cannot be written to: {error.strerror or error}. {remedy}') from error


def remove_parts(folder: str | Path) -> None:
    """Remove what a killed run left half-written."""
    for part in Path(folder).glob('.*.part'):
        part.unlink(missing_ok=True)
