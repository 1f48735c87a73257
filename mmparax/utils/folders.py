"""What lies in the folders of a data set: hidden folders, endings of files, files that are missing."""
from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator

from mmparax.utils.text import join_names

# Folders that systems and programs leave behind; nobody means them as a class.
LEFT_BEHIND = ('__MACOSX', '__pycache__', '@eaDir', 'lost+found', '$RECYCLE.BIN', 'System Volume Information')
MOST = 100_000  # files of a folder that are looked at to explain an error


def is_hidden(name: str) -> bool:
    """Whether the folder of this name is hidden or left behind by a program, as ``.ipynb_checkpoints`` is."""
    return name.startswith('.') or name in LEFT_BEHIND


def list_folders(path: str) -> list[str]:
    """Names of the folders in a folder, sorted."""
    return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())


def count_endings(path: str) -> Counter[str]:
    """How many files of each ending, as it is written, are in a folder and those in it; hidden ones are left out."""
    found, number = Counter[str](), 0
    for _, folders, files in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found.update(os.path.splitext(name)[1] or name for name in files if not name.startswith('.'))
        number += len(files)
        if number > MOST:
            break
    return found


def describe_endings(path: str) -> str:
    """The endings of the files in a folder in words, such as ``'24 files end in .JPG'``."""
    if not os.path.isdir(path):
        return f'{path!r} is no folder'
    counts = count_endings(path)
    if not counts:
        return f'{path!r} is empty'
    texts = [f'{number} {"file ends" if number == 1 else "files end"} in {ending}' for ending, number in counts.most_common()]
    return f'in {path!r} {join_names(texts, 4)}'


class FileIndex:
    """Answers whether files exist; every folder is listed once, which is faster than to ask for each file."""

    def __init__(self) -> None:
        self._folders: dict[str, set[str]] = {}

    def list(self, folder: str) -> set[str]:
        """Names of what is in a folder; nothing if it is not there."""
        if folder not in self._folders:
            try:
                self._folders[folder] = set(os.listdir(folder or '.'))
            except OSError:
                self._folders[folder] = set()
        return self._folders[folder]

    def find_missing(self, paths: Iterable[str]) -> Iterator[str]:
        """Yield the local paths that do not exist."""
        for path in paths:
            folder, name = os.path.split(path)
            local = '://' not in path or '/' in path.partition('://')[0]  # an address below a folder is a wrong name
            if local and (not name or name not in self.list(folder) and not os.path.exists(path)):
                yield path

    def suggest(self, path: str) -> str:
        """Which files of the same folder are probably meant, in words, or ''."""
        folder, name = os.path.split(path)
        names, stem = self.list(folder), os.path.splitext(name)[0]
        if not names:
            return f'{folder!r} is empty' if os.path.isdir(folder) else f'{folder!r} does not exist'
        similar = sorted(other for other in names if os.path.splitext(other)[0].lower() == stem.lower())
        # A list with 'a.jpg' in it where 'a' was expected, then a suffix that the files have behind their name.
        similar = similar or sorted(other for other in names if other == stem or os.path.splitext(other)[0].startswith(stem))
        return f'there is {join_names(map(repr, similar), 2)}' if similar else ''
