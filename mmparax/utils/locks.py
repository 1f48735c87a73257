"""Keeps two runs out of one folder."""
import errno
import logging
import os
import platform
import struct
from functools import cache
from pathlib import Path

from mmengine.logging import print_log

from mmparax.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = '.running'
_held: dict[str, int] = {}


def lock_folder(folder: str | Path) -> None:
    """Claim a folder for this process until it ends or :func:`unlock_folder`; claiming it again changes nothing.

    Raises:
        StorageError: if another process has it, or it cannot be written to.
    """
    folder = os.path.realpath(folder)
    if folder in _held:
        return
    try:
        os.makedirs(folder, exist_ok=True)
        file = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(f'work_dir={folder!r} cannot be written to ({error.strerror}): choose another work_dir.') from error
    if fcntl is None:
        os.close(file)
        _warn_without_locks('This system has no locks')
        return
    try:
        # A record lock ends with this very process; flock would live on in the data loader's workers.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):  # a file system without locks: go on without one
            os.close(file)
            _warn_without_locks(f'{folder!r} is on a file system without locks')
            return
        owner = os.read(file, 200).decode(errors='replace').strip() or 'an unknown process'
        os.close(file)
        raise StorageError(f'work_dir={folder!r} is in use by another run ({owner}), whose files would be overwritten. Give '
                           'this run another work_dir, or stop the other one first.') from error
    os.ftruncate(file, 0)
    os.write(file, f'process {os.getpid()} on {platform.node()}'.encode())
    _held[folder] = file


@cache  # a sentence is said once
def _warn_without_locks(reason: str) -> None:
    print_log(f'{reason}: nothing keeps a second run out of the folder of this one.', logger='current', level=logging.WARNING)


def unlock_folder(folder: str | Path) -> None:
    """Give up the claim of :func:`lock_folder`."""
    file = _held.pop(os.path.realpath(folder), None)
    if file is not None:
        os.close(file)


def in_use(folder: str | Path) -> bool:
    """Whether a process, this one included, has claimed a folder by :func:`lock_folder`; nothing is claimed or written."""
    folder = os.path.realpath(folder)
    if folder in _held:
        return True
    if fcntl is None:
        return False
    try:
        file = os.open(os.path.join(folder, LOCK), os.O_RDONLY)
    except OSError:
        return False
    try:
        # struct flock of Linux: type, whence, start, length, process. Asked, not taken: no run finds it locked by the asking.
        question = struct.pack('hhqqi', fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        return struct.unpack('hhqqi', fcntl.fcntl(file, fcntl.F_GETLK, question))[0] != fcntl.F_UNLCK
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(file)
