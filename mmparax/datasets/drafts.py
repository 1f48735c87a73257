"""Folders that appear only when all is written, and what a killed call leaves behind."""
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mmparax.errors import InputError, ParameterError, StorageError, UserError


def check_writable(parameter: str, path: str | Path) -> None:
    """Raise ParameterError if a file or folder cannot be made at ``path``: its parents are looked at, nothing is written."""
    path = Path(os.path.abspath(path))
    parent = next(folder for folder in path.parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise ParameterError(parameter, str(path), f'{str(parent)!r} is no folder', 'Choose another place.')
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ParameterError(parameter, str(path), f'the folder {str(parent)!r} cannot be written to', 'Choose another place.')


def remove_stale(out_dir: str | Path) -> None:
    """Remove what killed calls have left beside a folder, and put back the folder that one of them had set aside.

    Only names that :func:`replace_folder` gives are touched, and only if their process, on this machine, is no more.
    """
    out = Path(out_dir).resolve()
    pattern = re.compile(rf'\.{re.escape(out.name)}\.{re.escape(platform.node())}\.(\d+)\.(tmp|old)')
    if not out.parent.is_dir():
        return
    for path in sorted(out.parent.iterdir()):
        name = pattern.fullmatch(path.name)
        if name is None or path.is_symlink() or not path.is_dir() or _is_running(int(name[1])):
            continue
        if name[2] == 'old' and not out.exists():
            path.rename(out)
        else:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def replace_folder(out_dir: str | Path) -> Iterator[Path]:
    """Give an empty folder to write to, and put it in the place of ``out_dir`` at the end.

    After an error inside, ``out_dir`` is what it was. A killed call leaves a hidden folder beside it, which the next one
    removes.

    Raises:
        StorageError: if something cannot be written.
        InputError: if the block inside cannot read a file that lies elsewhere.
    """
    out = Path(out_dir).resolve()
    draft, old = (out.with_name(f'.{out.name}.{platform.node()}.{os.getpid()}.{kind}') for kind in ('tmp', 'old'))
    try:
        with _explain_storage(out):
            remove_stale(out)
            draft.mkdir(parents=True)
        with _explain_storage(out, draft):
            yield draft
        with _explain_storage(out):
            if out.exists():
                out.rename(old)
            draft.rename(out)
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def write_last(path: str | Path | None, text: str, inside: str | Path) -> Iterator[None]:
    """Write a small file beside the folder that the block inside writes: both appear, or neither.

    The content goes to a hidden neighbour before the block starts, so that a disk or folder that takes no file is known then.

    Args:
        path: the file; None writes nothing.
        text: its content.
        inside: the folder that the block makes; a file in it is written when it is there.

    Raises:
        StorageError: if the file cannot be written.
    """
    if path is None:
        yield
        return
    path = Path(path).resolve()
    later = Path(inside).resolve() in path.parents
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    made: list[Path] = []
    try:
        if later:
            yield
        with _explain_storage(path):
            for folder in reversed([folder for folder in path.parents if not os.path.exists(folder)]):
                folder.mkdir()
                made.append(folder)
            part.write_text(text, encoding='utf-8')
        if not later:
            yield
        with _explain_storage(path):
            part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        for folder in reversed(made):
            with suppress(OSError):  # what else is in it stays
                folder.rmdir()
        raise


@contextmanager
def _explain_storage(path: Path, draft: Path | None = None) -> Iterator[None]:
    """Say of an error of the system that ``path`` cannot be written.

    Args:
        path: what is written.
        draft: where it is written before; errors that name files elsewhere, and none here, are about what was read.
    """
    try:
        yield
    except UserError:  # some of them are OSErrors, too
        raise
    except OSError as error:
        names = [name for name in (error.filename, error.filename2) if isinstance(name, (str, os.PathLike))]
        if draft is not None and names and not any(Path(os.path.abspath(name)).is_relative_to(draft) for name in names):
            raise InputError(f'{str(names[0])!r} cannot be read: {error.strerror or error}.') from error
        raise StorageError(f'{str(path)!r} cannot be written: {error}.') from error


def _is_running(number: int) -> bool:
    """Whether there is another process of this number; in a container every call may have the same one as this."""
    if number == os.getpid():
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
