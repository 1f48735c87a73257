"""Finds the file of a checkpoint: a path, a URL, or the name of a file that ships with the package."""
import hashlib
import os
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlparse

import torch

from mmparax.errors import InputError, MissingFileError
from mmparax.weights.reader import read_file

SHIPPED = 'mmparax://'  # before the name of a file in the package's own folder of mini backbones
ZOO = Path(__file__).parents[1] / 'zoo'
CONFIG_PLACES = {'base_checkpoint': 'model.backbone.base_checkpoint'}  # parameter -> its place in a config


def is_url(source: str) -> bool:
    """Whether a source is fetched over the network."""
    return source.startswith(('http://', 'https://'))


def get_cached_path(url: str) -> Path:
    """Return the place of a URL's file: torch's own folder of downloads.

    If the file of that name there came from another URL, the place is in a folder of its own.
    """
    path = Path(torch.hub.get_dir()) / 'checkpoints' / os.path.basename(urlparse(url).path)
    origin = get_origin_file(path)
    if origin.is_file() and origin.read_text() != url:
        return path.parent / hashlib.sha256(url.encode()).hexdigest()[:8] / path.name
    return path


def get_origin_file(path: Path) -> Path:
    """Return the path of the file that says from which URL a downloaded one came."""
    return path.with_name(f'{path.name}.url')


def locate(source: str) -> Path | None:
    """Return the local file of a path, ``mmparax://`` name or cached URL, or None if it is not at hand."""
    if is_url(source):
        path = get_cached_path(source)
    elif source.startswith(SHIPPED):
        path = ZOO / source[len(SHIPPED):]
    else:
        path = Path(source).expanduser()
    return path if path.is_file() else None


def get_local_rank() -> int:
    """Return the rank of this process on its machine, which every launcher sets (mmengine's own needs a further group)."""
    return int(os.environ.get('LOCAL_RANK', 0))


def fetch(source: str, parameter: str = 'base_checkpoint') -> Path:
    """Return the local file of a path or URL; the first process of each machine downloads, its others wait.

    Args:
        source: path, URL or ``mmparax://`` name.
        parameter: what the user calls it, for the errors.

    Raises:
        MissingFileError: if it is not there and cannot be had.
        InputError: if what came from the URL is not a checkpoint; it is removed again.
    """
    if not is_url(source):
        path = locate(source)
        if path is None:
            raise MissingFileError(f'{parameter}={source!r} does not exist (looked in {os.getcwd()!r}). Put the file '
                                   f'there or set {CONFIG_PLACES.get(parameter, parameter)} to its path.')
        return path
    target = get_cached_path(source)
    if locate(source) is not None:
        return target
    if get_local_rank() != 0:
        # No collective: the ranks of another machine may have the file already and would not take part.
        wait_for_file(target, source)
        return target
    download(source, target, parameter)
    return target


def download(url: str, target: Path, parameter: str) -> None:
    """Put the checkpoint behind ``url`` at ``target``, which appears only when the file was read without an error.

    Raises:
        MissingFileError: if it cannot be downloaded.
        InputError: if the answer is no checkpoint.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix='.download-') as folder:
        part = Path(folder) / target.name
        digest = torch.hub.HASH_REGEX.search(target.name)  # OpenMMLab's names end with the start of their digest
        try:
            torch.hub.download_url_to_file(url, str(part), hash_prefix=digest.group(1) if digest else None,
                                           progress=sys.stderr.isatty())
        except Exception as error:
            raise MissingFileError(
                f'{parameter}={url!r} could not be downloaded ({error}). Download it by other means and put it at '
                f'{str(target)!r}, or set {CONFIG_PLACES.get(parameter, parameter)} to its path.') from error
        try:
            read_file(part)
        except InputError as error:
            raise InputError(f'{parameter}={url!r} did not answer with a checkpoint, and was removed: '
                             f'{str(error).replace(str(part), target.name)}') from error
        get_origin_file(part).write_text(url)
        get_origin_file(part).replace(get_origin_file(target))
        part.replace(target)


def wait_for_file(path: Path, source: str, seconds: float = 3600.) -> None:
    """Wait until the first process of this machine has put the file in its place.

    Raises:
        MissingFileError: if that takes longer than ``seconds``.
    """
    end = time.monotonic() + seconds
    while not path.is_file():
        if time.monotonic() > end:
            raise MissingFileError(f'base_checkpoint={source!r} was not downloaded within {seconds:.0f} s by the first '
                                   f'process of this machine. Put the file at {str(path)!r}.')
        time.sleep(0.5)
