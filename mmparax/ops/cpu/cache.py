"""Where compiled operations are kept for the next process, and whom that place may belong to."""
import os
import stat
import tempfile
from pathlib import Path


class UntrustedCacheError(OSError):
    """A cache folder or file that somebody else could have written: code that is loaded from it could be anybody's."""


def find_cache_folder() -> Path:
    """The folder, absolute, which need not exist: in ``$XDG_CACHE_HOME``, the home folder, or else among temporary files."""
    given = os.environ.get('XDG_CACHE_HOME', '')
    if os.path.isabs(given):  # the standard says to ignore a relative one
        return Path(given) / 'mmparax' / 'cpu'
    home = os.path.expanduser('~')  # stays '~' where neither $HOME nor the system's table of users has it
    if os.path.isabs(home):
        return Path(home) / '.cache' / 'mmparax' / 'cpu'
    return Path(tempfile.gettempdir()).absolute() / f'mmparax-{os.getuid()}' / 'cpu'


def check_private(path: Path) -> None:
    """Raise UntrustedCacheError if a file or folder is a link, another user's, or one that others may write to."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        why = 'is a link'
    elif found.st_uid != os.getuid():
        why = f'belongs to another user (number {found.st_uid})'
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        why = 'may be written by other users'
    else:
        return
    raise UntrustedCacheError(f'{str(path)!r} {why}, so code is not loaded from it: remove it, or set XDG_CACHE_HOME to a '
                              'folder that is yours alone')


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter; one that is there is checked (:func:`check_private`)."""
    outer = folder.parent
    if outer.parent == Path(tempfile.gettempdir()).absolute():  # where anybody may have made it, and could swap the inner one
        outer.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        check_private(outer)
    outer.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
    check_private(folder)
