"""Shapes on images, whatever tool they were drawn with."""
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from mmparax.datasets.masks.files import find_split
from mmparax.utils.images import read_header
from mmparax.utils.problems import ProblemList

_NUMBER = re.compile(r'\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*', re.IGNORECASE)


@dataclass
class Shape:
    """A shape.

    Attributes:
        label: what it is.
        kind: such as ``'polygon'``; :mod:`mmparax.datasets.shapes.raster` has them all.
        points: (P, 2) x and y in pixels.
        mask: (h, w) bool of a shape that is given by its pixels, with its corner at ``points[0]``.
        group: shapes of one label and group, unless it is '', are parts of one object.
        level: shapes of a higher level lie above the others; within a level later ones do.
    """
    label: str
    kind: str
    points: np.ndarray
    mask: np.ndarray | None = None
    group: str = ''
    level: int = 0


@dataclass
class ShapeImage:
    """An image with its shapes, the lowest first.

    Attributes:
        file: the image.
        name: (split or '', name without ending) that it gets when it is written.
        height: in pixels, as it is read.
        width: the same.
        shapes: on it.
    """
    file: Path
    name: tuple[str, str]
    height: int
    width: int
    shapes: list[Shape] = field(default_factory=list)


def choose_name(path: str) -> tuple[str, str]:
    """(split or '', name) for the image at a path below some root: a folder such as ``train`` stays, others join the name."""
    *folders, file = PurePosixPath(path).parts
    split = next((found for folder in folders if (found := find_split(folder))), '')
    rest = [folder for folder in folders if not find_split(folder)]
    return split, '_'.join([*rest, PurePosixPath(file).stem])


def check_image(candidates: Iterable[Path], size: tuple[int, int] | None, source: str, wanted: str,
                problems: ProblemList) -> tuple[Path, int, int] | None:
    """(file, height, width) of the first file that is there; None, and one more problem, if it is none or does not fit.

    Args:
        candidates: where the image may be.
        size: (height, width) that the annotations say, or None.
        source: the file of the annotations.
        wanted: the image as the annotations call it.
        problems: gets what is wrong.
    """
    file = next((path for path in candidates if path.is_file()), None)
    if file is None:
        problems.add('images that are not there', f'{source}: {wanted}', "If they are elsewhere, say where: image_dir='DIR'.")
        return None
    try:
        width, height = read_header(file).loaded_size  # labelling tools show it turned, training reads it so
    except OSError as error:
        problems.add('images that cannot be read', f'{file.name} ({error})')
        return None
    if size is not None and size != (height, width):
        problems.add('images of another size than the annotations say', f'{source}: {size[1]}x{size[0]}, {file.name}: '
                     f'{width}x{height}')
        return None
    return file, height, width


def check_points(points: np.ndarray, height: int, width: int, place: str, clip: bool, problems: ProblemList) -> bool:
    """Whether points can be used; else there is one more problem.

    Half a pixel beyond the border is what a hand does; more is another image, or another size of it.
    """
    if not all(map(math.isfinite, points.ravel())):
        problems.add('shapes with points that are no numbers', place)
        return False
    outside = ((points < -0.5) | (points > np.array([width, height]) + 0.5)).any(1)
    if outside.any() and not clip:
        x, y = points[outside][0]
        problems.add('shapes with points outside the image', f'{place}: ({x:g}, {y:g}) in {width}x{height}',
                     'Look at whether they are meant for this image; clip=True cuts them off at its border.')
        return False
    return True


def parse_number(text: str | None) -> float:
    """A number in an attribute, NaN if it is none."""
    return float(text) if text is not None and _NUMBER.fullmatch(text) else math.nan
