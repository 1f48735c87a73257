"""Finds the configs and tools that ship with the package."""
from pathlib import Path
from typing import TYPE_CHECKING

from mmparax.errors import MissingFileError

if TYPE_CHECKING:
    from mmengine.config import Config

PACKAGE = Path(__file__).resolve().parents[1]


def find_root() -> Path:
    """The folder that holds ``configs`` and ``tools``: the repository, or ``.mim`` of an installed package.

    Raises:
        MissingFileError: if there is neither.
    """
    for folder in (PACKAGE.parent, PACKAGE / '.mim'):
        if (folder / 'tools' / 'train.py').is_file() and (folder / 'configs').is_dir():
            return folder
    raise MissingFileError(f'configs/ and tools/ are neither in {str(PACKAGE.parent)!r} nor in the installed package: install '
                           'mmparax from its repository.')


def resolve_config(path: str) -> Path:
    """The file of a shipped config, by its path below ``configs``; it may not exist."""
    return find_root() / 'configs' / path


def read_config(path: str) -> 'Config':
    """Read a shipped config, by its path below ``configs``."""
    from mmengine.config import Config  # find_root needs no mmengine

    return Config.fromfile(resolve_config(path))
