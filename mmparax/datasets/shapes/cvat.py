"""Reads what CVAT writes as "CVAT for images 1.1": one XML file."""
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from mmparax.datasets.shapes.shapes import Shape, ShapeImage, check_image, check_points, choose_name, parse_number
from mmparax.errors import InputError
from mmparax.utils.problems import ProblemList

_AREAS = ('box', 'polygon', 'ellipse', 'mask')
_OTHERS = ('polyline', 'points', 'cuboid', 'skeleton')
_ELLIPSE_CORNERS = 360


def read_cvat(path: str | Path, images: str | Path | None, skip: Collection[str], clip: bool,
              problems: ProblemList) -> tuple[list[ShapeImage], list[str]]:
    """Read an XML file.

    Args:
        path: the file.
        images: where the images are, if not in the folder ``images`` beside it.
        skip: kinds of shapes to leave out.
        clip: whether points outside the image are cut off instead of refused.
        problems: gets what is wrong.

    Returns:
        the images, and the labels of the task in their order.

    Raises:
        InputError: if the file is of another kind.
    """
    path = Path(path)
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(f'{str(path)!r} cannot be read as XML: {error}.') from error
    if root.tag != 'annotations':
        raise InputError(f'{str(path)!r} is not from CVAT: it begins with <{root.tag}>, not with <annotations>.')
    if root.find('track') is not None:
        raise InputError(f'{str(path)!r} is an export as "CVAT for video", without the names of the images: export as "CVAT for '
                         'images".')
    labels = [label.findtext('name', '').strip() for label in root.iterfind('meta//labels/label') if label.find('parent') is None]
    found = []
    for element in root.iterfind('image'):
        name = element.get('name', '').replace('\\', '/')
        image = _find_image(element, name, path.parent, None if images is None else Path(images), problems)
        if image is None:
            continue
        for number, entry in enumerate((child for child in element if child.tag not in ('tag', 'attribute')), 1):
            shape = _read_shape(entry, f'{name}: shape {number}', skip, image, clip, problems)
            if shape is not None:
                image.shapes.append(shape)
        image.shapes.sort(key=lambda shape: shape.level)
        found.append(image)
    return found, labels


def _find_image(element: ElementTree.Element, name: str, root: Path, images: Path | None,
                problems: ProblemList) -> ShapeImage | None:
    subset = element.get('subset') or ''
    size = parse_number(element.get('height')), parse_number(element.get('width'))
    roots = ([images] if images is not None else []) + [root / 'images', root]
    candidates = [folder / part for folder in roots for part in (Path(subset, name), Path(name))] if name else []
    if images is not None:
        candidates.append(images / Path(name).name)
    found = check_image(candidates, None if any(map(math.isnan, size)) else (int(size[0]), int(size[1])), 'the XML file', name,
                        problems)
    return None if found is None else ShapeImage(found[0], choose_name(f'{subset}/{name}' if subset else name), *found[1:])


def _read_shape(entry: ElementTree.Element, place: str, skip: Collection[str], image: ShapeImage, clip: bool,
                problems: ProblemList) -> Shape | None:
    label = entry.get('label', '').strip()
    place = f'{place} ({label}, {entry.tag})'
    if entry.tag in skip:
        return None
    if entry.tag not in _AREAS:
        kind = 'shapes that have no area' if entry.tag in _OTHERS else 'shapes of an unknown kind'
        problems.add(kind, place, f'Leave them out: skip={[entry.tag]!r}.')
        return None
    if not label:
        problems.add('shapes without a label', place)
        return None
    group, level = entry.get('group_id', ''), parse_number(entry.get('z_order', '0'))
    if math.isnan(level):
        problems.add('shapes with a z_order that is no number', place)
        return None
    common: dict[str, Any] = dict(group='' if group == '0' else group, level=int(level))
    if entry.tag == 'mask':
        return _read_mask(entry, label, place, common, problems)
    points = np.array(_list_points(entry)).reshape(-1, 2)
    if len(points) < 3:
        problems.add('shapes with a wrong number of points', f'{place}: {len(points)}')
        return None
    # Turning, and the arc of an ellipse, may leave the image where the user's own points do not.
    if not check_points(points, image.height, image.width, place, clip or entry.tag == 'ellipse' or 'rotation' in entry.attrib,
                        problems):
        return None
    return Shape(label, 'area', points, **common)


def _list_points(entry: ElementTree.Element) -> list[tuple[float, float]]:
    """Corners of a polygon, of a box, or of the polygon that an ellipse is drawn as."""
    if entry.tag == 'polygon':
        pairs = [pair.split(',') for pair in entry.get('points', '').split(';') if pair.strip()]
        return [(parse_number(pair[0]), parse_number(pair[1]) if len(pair) == 2 else math.nan) for pair in pairs]
    angle = math.radians(parse_number(entry.get('rotation', '0')))  # clockwise, as y points down
    if entry.tag == 'box':
        left, top, right, bottom = (parse_number(entry.get(side)) for side in ('xtl', 'ytl', 'xbr', 'ybr'))
        x, y, half_width, half_height = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
        corners = [(-half_width, -half_height), (half_width, -half_height), (half_width, half_height), (-half_width, half_height)]
        if not angle:
            return [(left, top), (right, top), (right, bottom), (left, bottom)]
    else:
        x, y, half_width, half_height = (parse_number(entry.get(side)) for side in ('cx', 'cy', 'rx', 'ry'))
        turns = [2 * math.pi * number / _ELLIPSE_CORNERS for number in range(_ELLIPSE_CORNERS)]
        corners = [(half_width * math.cos(turn), half_height * math.sin(turn)) for turn in turns]
    sine, cosine = math.sin(angle), math.cos(angle)
    return [(x + cosine * right - sine * down, y + sine * right + cosine * down) for right, down in corners]


def _read_mask(entry: ElementTree.Element, label: str, place: str, common: dict, problems: ProblemList) -> Shape | None:
    """A mask as run lengths, line by line inside its box: pixels that are not in it, pixels that are, and so on."""
    numbers = [parse_number(each) for each in entry.get('rle', '').split(',')]
    box = [parse_number(entry.get(side)) for side in ('left', 'top', 'width', 'height')]
    whole = [number for number in (*numbers, *box) if number == int(number)] if all(map(math.isfinite, (*numbers, *box))) else []
    if len(whole) < len(numbers) + 4 or min(whole) < 0 or sum(numbers) != box[2] * box[3]:
        problems.add('shapes whose mask cannot be read', place, 'Its run lengths do not fill its box.')
        return None
    runs = [int(number) for number in numbers]
    mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(int(box[3]), int(box[2]))
    return Shape(label, 'mask', np.array([box[:2]]), mask, **common)
