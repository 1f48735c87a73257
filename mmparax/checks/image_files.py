"""Whether the images that annotations speak of are there, and have the size that is written of them."""
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mmparax.checks.coco_file import FIX, add_all
from mmparax.checks.usage import Usage
from mmparax.utils.folders import FileIndex
from mmparax.utils.images import EXIF_SIDEWAYS, UPRIGHT, ImageHeader, read_header
from mmparax.utils.problems import ProblemList
from mmparax.utils.text import get_first_line


def check_existence(folder: str, names: Sequence[str], file: str, parameter: str, found: ProblemList) -> set[int]:
    """Check that files are there.

    Args:
        folder: that the data set looks in.
        names: of its files, as the annotations have them.
        file: the annotation file.
        parameter: the option that names the folder.
        found: gets the problems.

    Returns:
        Numbers of the names that are missing.
    """
    absent = set(FileIndex().find_missing(os.path.join(folder, name) for name in names))
    missing = [number for number, name in enumerate(names) if os.path.join(folder, name) in absent]
    windows = [number for number in missing if '\\' in names[number]]
    add_all(found, f'file names with Windows separators in {file!r}', windows, lambda number: repr(names[number]),
            f'Write them with /. {FIX if file.endswith(".json") else ""}'.strip())
    others = [number for number in missing if '\\' not in names[number]]
    remedy = _find_remedy(folder, names, others, parameter) if others else ''
    add_all(found, f'files that {file!r} names and {folder!r} has not', others, lambda number: repr(names[number]), remedy)
    return set(missing)


def _find_remedy(folder: str, names: Sequence[str], missing: Sequence[int], parameter: str) -> str:
    """Guess from the first missing file why it is missing."""
    first = names[missing[0]]
    below = os.path.join(folder, os.path.dirname(first))
    base, stem = os.path.basename(first), os.path.splitext(os.path.basename(first))[0]
    there = os.listdir(below) if os.path.isdir(below) else []
    alike = [name for name in there if name.lower() == base.lower() or os.path.splitext(name)[0] == stem]
    if alike:
        return f'There is {alike[0]!r}: names must agree in every letter.'
    if base != first and os.path.isfile(os.path.join(folder, base)):
        return f'{base!r} lies in the folder itself: leave {os.path.dirname(first)!r} out of the names.'
    if not os.path.isdir(folder):
        return f'The folder does not exist: set {parameter}.'
    return f'Put them there, or set {parameter} to the folder from which the names go on.'


def check_sizes(paths: Sequence[str], sizes: Sequence[tuple[float, float]], usage: Usage, file: str, found: ProblemList) -> None:
    """Compare the sizes of images with what an annotation file says.

    Args:
        paths: of the images.
        sizes: (width, height) of each in pixels in the annotation file; NaN where it has none.
        usage: of the data set.
        file: the annotation file.
        found: gets the problems.
    """
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(_try_header, paths))
    for path, (width, height), header in zip(paths, sizes, headers):
        if not isinstance(header, ImageHeader):
            found.add('images that cannot be read', f'{path!r}: {header}', 'Copy them again, or take them out of the data.')
            continue
        turned = usage.turns and header.orientation != UPRIGHT
        loaded = header.loaded_size if usage.turns else (header.width, header.height)
        if np.isnan(width) or np.isnan(height):
            continue
        if loaded != (width, height):
            how = f', turned by its EXIF tag (orientation {header.orientation}),' if turned else ''
            sideways = turned and header.orientation in EXIF_SIDEWAYS and (header.width, header.height) == (width, height)
            found.add(
                f'images of another size than {file!r} says' + (' because they are turned when loaded' if sideways else ''),
                f'{path!r} is {_format(*loaded)}{how} and not {_format(width, height)}',
                'The annotations are of the unturned images, so they would lie in wrong places. Write the images again without '
                "the tag, or load them with dict(type='LoadImageFromFile', color_type='color_ignore_orientation')."
                if sideways else 'Annotate the images as they are, or put those there that were annotated.')
        elif turned and (header.orientation not in EXIF_SIDEWAYS or header.width == header.height):
            found.add(f'images of {file!r} that are turned when loaded',
                      f'{Path(path).name!r} (EXIF orientation {header.orientation})',
                      'Their sizes do not tell whether the annotations are of the turned images: look at one.', warning=True)


def _try_header(path: str) -> ImageHeader | str:
    try:
        return read_header(path)
    except OSError as error:
        return get_first_line(error)


def _format(width: float, height: float) -> str:
    return f'{width:g}x{height:g}'
