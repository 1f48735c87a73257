"""Reads what LabelMe writes: a JSON file for each image."""
import base64
import binascii
import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from mmparax.datasets.shapes.shapes import Shape, ShapeImage, check_image, check_points, choose_name
from mmparax.utils.images import IMAGE_ENDINGS, open_image
from mmparax.utils.problems import ProblemList

# Kind -> the numbers of points that it may have; None: any above.
_POINTS: dict[str, tuple[int, int | None]] = dict(polygon=(3, None), rectangle=(2, 4), oriented_rectangle=(4, 4), rotation=(4, 4),
                                                  circle=(2, 2), line=(2, 2), linestrip=(2, None), point=(1, 1), mask=(2, 2))


def read_labelme(folder: str | Path, images: str | Path | None, skip: Collection[str], clip: bool,
                 problems: ProblemList) -> list[ShapeImage]:
    """Read all JSON files in a folder and the folders in it.

    Args:
        folder: of the JSON files.
        images: where the images are that are not where the files say, nor beside them.
        skip: kinds of shapes to leave out.
        clip: whether points outside the image are cut off instead of refused.
        problems: gets what is wrong.
    """
    folder = Path(folder)
    found = []
    for path in sorted(folder.rglob('*.json')):
        place = path.relative_to(folder).as_posix()
        if path.name.startswith('.'):
            continue
        try:
            content = json.loads(path.read_text(encoding='utf-8-sig'))
        except (OSError, ValueError) as error:
            problems.add('files that cannot be read', f'{place} ({type(error).__name__}: {error})')
            continue
        if not isinstance(content, dict) or not isinstance(content.get('shapes'), list):
            coco = isinstance(content, dict) and {'images', 'annotations'} <= set(content)
            what = "COCO's format, which mmdetection reads itself" if coco else 'no list of shapes'
            problems.add('JSON files that are not from LabelMe', f'{place} ({what})', 'Move them away.')
            continue
        image = _read_image(path, place, content, None if images is None else Path(images), problems)
        if image is None:
            continue
        for number, entry in enumerate(content['shapes'], 1):
            shape = _read_shape(entry, f'{place}: shape {number}', skip, image, clip, problems)
            if shape is not None:
                image.shapes.append(shape)
        found.append(image)
    return found


def _read_image(path: Path, place: str, content: dict[str, Any], images: Path | None, problems: ProblemList) -> ShapeImage | None:
    wanted = str(content.get('imagePath') or '').replace('\\', '/')
    name = Path(wanted).name or path.stem
    candidates = [path.parent / wanted] if wanted else []
    if images is not None:
        candidates += [images / Path(place).parent / name, images / name]
    candidates += [path.parent / name]
    for root in ([images / Path(place).parent, images] if images is not None else []) + [path.parent]:
        candidates += [root / f'{path.stem}{ending}' for suffix in IMAGE_ENDINGS for ending in (suffix, suffix.upper())]
    height, width = content.get('imageHeight'), content.get('imageWidth')
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    image = check_image(candidates, size, place, wanted or f'{path.stem}.*', problems)
    return None if image is None else ShapeImage(image[0], choose_name(place), image[1], image[2])


def _read_shape(entry: Any, place: str, skip: Collection[str], image: ShapeImage, clip: bool,
                problems: ProblemList) -> Shape | None:
    if not isinstance(entry, dict):
        problems.add('shapes that are none', place)
        return None
    label, kind = entry.get('label'), entry.get('shape_type') or 'polygon'
    place = f'{place} ({label}, {kind})'
    if kind in skip:
        return None
    if not isinstance(label, str) or not label.strip():
        problems.add('shapes without a label', place)
        return None
    if kind not in _POINTS:
        problems.add('shapes of an unknown kind', place,
                     f'Known are {", ".join(_POINTS)}. Leave others out: skip={[str(kind)]!r}.')
        return None
    try:
        points = np.array(entry.get('points'), float).reshape(-1, 2)
    except (TypeError, ValueError):
        problems.add('shapes with points that are no numbers', place)
        return None
    least, most = _POINTS[kind]
    if len(points) < least or (most is not None and len(points) > most) or (kind == 'rectangle' and len(points) == 3):
        problems.add('shapes with a wrong number of points', f'{place}: {len(points)}')
        return None
    if not check_points(points, image.height, image.width, place, clip, problems):
        return None
    mask = None
    if kind == 'mask':
        try:
            with open_image(io.BytesIO(base64.b64decode(entry.get('mask') or '', validate=True))) as picture:
                mask = np.asarray(picture) > 0
            assert mask.ndim == 2
        except (OSError, ValueError, TypeError, AssertionError, binascii.Error):
            problems.add('shapes whose mask cannot be read', place)
            return None
    group = entry.get('group_id')
    return Shape(label.strip(), kind, points, mask, '' if group is None else str(group))
