"""mmengine's way to write files, by :mod:`mmparax.utils.storage`."""
from collections.abc import Callable
from pathlib import Path

from mmengine.fileio.backends import LocalBackend

from mmparax.utils.storage import write


class AtomicBackend(LocalBackend):
    """mmengine's local storage with :func:`write`, which removes only files that a run of this folder wrote.

    Attributes:
        postponed: while it is a list, it gets the paths to remove.
        is_own: whether a path may be removed; a checkpoint that is resumed says what to remove, and may say anything.
    """

    def __init__(self):
        self.postponed: list[str] | None = None
        self.is_own: Callable[[str], bool] = lambda path: True  # until the hook that made it narrows it

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write(filepath, obj)

    def remove(self, filepath: str | Path) -> None:
        if self.postponed is not None:
            self.postponed.append(str(filepath))
        elif self.is_own(str(filepath)):
            super().remove(filepath)

    def rmtree(self, dir_path: str | Path) -> None:
        """Nothing: no run of mmparax writes folders as checkpoints."""
