"""What the analyses share: their setup, sums over batches that survive an interruption, and result files."""
import hashlib
import io
import json
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mmparax.analysis.models import ModelSource
from mmparax.utils.progress import Progress
from mmparax.utils.storage import write

SAVE_SECONDS = 5.
SUMS = 'sums'  # folder of the partial sums
LARGEST = 512  # of the crops, if no size is asked for
AGAIN = 'Make room or choose another place, then start the same again.'


@dataclass
class Setup:
    """What an analysis measures.

    Attributes:
        models: the models; the images come from the first one's config.
        out: folder of the results.
        image_dir: a folder of images to take instead.
        num_images: how many images.
        batch_size: images at a time.
        size: side of the square crops in pixels; None for what fits the images and the models.
        seed: of the draw of images, and of what is random in a model without a checkpoint.
        device: where the models run.
        cfg_options: changes of every config.
        progress: whether to show bars.
    """
    models: Sequence[ModelSource]
    out: Path
    image_dir: str | None = None
    num_images: int = 64
    batch_size: int = 8
    size: int | None = None
    seed: int = 0
    device: str = 'auto'
    cfg_options: Mapping[str, Any] | None = None
    progress: bool = True


def split_batches(count: int, size: int) -> list[list[int]]:
    """Split the numbers 0 to ``count`` - 1 into lists of ``size``; the last may be shorter."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def sum_batches(folder: Path, key: Sequence[Any], batches: Sequence[Sequence[int]], compute: Callable[[Sequence[int]],
                                                                                                      np.ndarray], title: str,
                progress: bool = True, every: float = SAVE_SECONDS) -> np.ndarray:
    """Add up an array of each batch; a sum that was interrupted is read from a file and continued.

    Args:
        folder: of the file, whose name is a digest of ``key``.
        key: all that the sum depends on, as plain data.
        batches: numbers of the images of each batch.
        compute: gives the float64 array of a batch.
        title: of the progress bar.
        progress: whether to show it.
        every: seconds between two writes of the sum so far.

    Returns:
        np.ndarray: the sum, bit for bit the same whether it was interrupted or not.
    """
    path = folder / f'{hashlib.sha256(json.dumps([*key, batches], default=str).encode()).hexdigest()[:32]}.npz'
    state = _read_sum(path)  # one name: an interruption comes before or after its assignment, never between two
    saved, last = state[0], time.monotonic()
    with Progress(total=sum(map(len, batches)), initial=sum(map(len, batches[:saved])), desc=title, unit='image',
                  disable=not progress) as bar:
        try:
            while state[0] < len(batches):
                value = compute(batches[state[0]])
                state = (state[0] + 1, value if state[0] == 0 else state[1] + value)
                bar.update(len(batches[state[0] - 1]))
                if time.monotonic() - last >= every:
                    _write_sum(path, state)
                    saved, last = state[0], time.monotonic()
        finally:
            if state[0] > saved:
                _write_sum(path, state)
    return state[1]


def _read_sum(path: Path) -> tuple:
    """Return the number of batches that were summed, and their sum."""
    if path.is_file():
        try:
            with np.load(path) as content:
                return int(content['batches']), content['sum']
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
            print(f'{path} cannot be read: its sum is computed anew.', file=sys.stderr)
    return 0, np.zeros(0)


def _write_sum(path: Path, state: tuple) -> None:
    write_arrays(path, dict(batches=np.array(state[0]), sum=state[1]))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays into an ``.npz`` file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write(path, buffer.getvalue(), AGAIN)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write plain data, whole or not at all."""
    write(path, (json.dumps(content, indent=1, allow_nan=False) + '\n').encode(), AGAIN)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a picture as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png', dpi=130)
    write(path, buffer.getvalue(), AGAIN)
