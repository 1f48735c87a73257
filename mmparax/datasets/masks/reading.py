"""What is in one mask."""
from pathlib import Path

import numpy as np
from PIL import Image

from mmparax.datasets.masks.colours import ColourTable
from mmparax.utils.images import open_image
from mmparax.utils.problems import ProblemList

FEW_COLOURS = 8  # more unknown colours in one mask are no forgotten classes


def read_values(path: str | Path, colours: ColourTable | None, problems: ProblemList) -> np.ndarray | None:
    """Read a mask.

    Args:
        path: its file.
        colours: what its colours stand for; without, the number in each pixel is its value.
        problems: gets one more if the mask cannot be used.

    Returns:
        (H, W) integers from 0, or None if the mask cannot be used.

    Raises:
        Exception: of the decoder, if the file cannot be read.
    """
    name = Path(path).name
    with open_image(path) as mask:
        mask.load()
        if colours is not None:
            return _find_colours(mask, name, colours, problems)
        # Who writes a GIF orders its palette anew: only the colours that it shows mean something.
        values = np.asarray(mask.convert('RGB') if mask.format == 'GIF' else mask)
        if values.ndim > 2:
            grey = values[..., :3] if values.shape[-1] > 2 else values[..., :1]
            if mask.mode not in ('RGB', 'RGBA', 'LA', 'P', 'L') or (grey != grey[..., :1]).any() or _is_transparent(mask):
                problems.add('masks with several channels, where a single one must hold class numbers',
                             f'{name} ({values.shape[-1]} channels, {mask.mode})',
                             "If colours stand for the classes, say for which: colours='FILE'.")
                return None
            values = grey[..., 0]
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind == 'f':
        if not np.isfinite(values).all() or (values != np.round(values)).any():
            problems.add('masks with values that are no whole numbers', name)
            return None
        values = values.astype(np.int64)
    if values.size and values.min() < 0:
        problems.add('masks with negative values', f'{name}: {values.min()}')
        return None
    return values


def count_values(values: np.ndarray) -> dict[int, int]:
    """Value -> number of pixels, for the values that are there."""
    if values.dtype in (np.uint8, np.uint16):
        counts = np.bincount(values.ravel())
        return {int(value): int(counts[value]) for value in counts.nonzero()[0]}
    return {int(value): int(count) for value, count in zip(*np.unique(values, return_counts=True))}


def _find_colours(mask: Image.Image, name: str, colours: ColourTable, problems: ProblemList) -> np.ndarray | None:
    if mask.mode.startswith(('I', 'F')):
        problems.add('masks of more than 8 bits, which hold no colours', f'{name} ({mask.mode})')
        return None
    if _is_transparent(mask):
        problems.add('masks with transparent pixels', name, 'What is under them cannot be known: save the masks without alpha.')
        return None
    values, strange = colours.find_values(np.asarray(mask.convert('RGB')))
    if not strange:
        return values
    shown = '; '.join(f'{rgb}: {count} pixel(s)' for rgb, count in list(strange.items())[:4])
    more = f'; and {len(strange) - 4} more colours' if len(strange) > 4 else ''
    if len(strange) <= FEW_COLOURS:
        problems.add(f'masks with colours that {colours.path!r} has not', f'{name}: {shown}{more}',
                     'Add a line for each; one that is not to be learnt gets a name, and ignore has that name.')
    else:
        problems.add(
            'masks with colours in between, which smoothing, resizing or JPEG has left and which no class can be '
            'given to', f'{name}: {shown}{more}',
            'Save PNG files where the masks were made, and shrink them with nearest-neighbour sampling only.')
    return None


def _is_transparent(mask: Image.Image) -> bool:
    """Whether some pixel is not opaque."""
    if mask.mode == 'P' and 'transparency' in mask.info:
        return bool((np.asarray(mask.convert('RGBA'))[..., 3] < 255).any())
    return mask.mode in ('LA', 'PA', 'RGBA', 'RGBa') and bool((np.asarray(mask)[..., -1] < 255).any())
