"""Writes a corrected copy of an annotation file in COCO's format."""
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmparax.checks.coco import judge_boxes, look_like_corners
from mmparax.checks.coco_file import are_ids, find_repeated, get_column, is_number, read_annotations, read_numbers
from mmparax.checks.coco_masks import Mask, covers_image, is_polygon, judge_mask, measure_area, measure_mask
from mmparax.errors import InputError, ParameterError
from mmparax.utils.images import read_header
from mmparax.utils.storage import write

Entries = Sequence[dict[str, Any]]


def fix_coco_file(path: str | Path, out: str | Path, image_dir: str | Path | None = None) -> Counter[str]:
    """Write a corrected copy of an annotation file; nothing is written if there is nothing to correct.

    Args:
        path: the file, which stays as it is.
        out: the file to write.
        image_dir: folder that the names of the images begin in; sizes that the file has not are read there.

    Returns:
        How many things of each kind were changed, such as ``{'boxes dropped: outside of their images': 3}``.

    Raises:
        ParameterError: if ``out`` exists.
        InputError: if the file cannot be read or is in another format.
    """
    check_target(out)
    content, changes = fix_content(str(path), image_dir)
    if changes:
        save(content, out)
    return changes


def check_target(out: str | Path) -> None:
    """Raise ParameterError if there is something at ``out``, such as the file to correct."""
    if os.path.lexists(out):
        raise ParameterError('fix', str(out), 'it exists, and no annotation file is written over', 'Choose another place.')


def save(content: Mapping[str, Any], out: str | Path) -> None:
    """Write the content of an annotation file whole."""
    write(out, json.dumps(content).encode(), 'Choose another place.')


def fix_content(path: str, image_dir: str | Path | None = None) -> tuple[dict[str, Any], Counter[str]]:
    """Read an annotation file and correct what can be corrected without a guess; returns it and what was changed.

    Of panoptic segments only what is said of their images is corrected.
    """
    content, encoding = read_annotations(path)
    for key in ('images', 'annotations', 'categories'):
        entries = content.get(key)
        if not isinstance(entries, list) or not set(map(type, entries)) <= {dict}:
            raise InputError(f'{path!r} cannot be corrected: it has no list of objects "{key}", as files in COCO\'s format have.')
    changes: Counter[str] = Counter()
    if encoding != 'utf-8':
        changes['encoding written as plain UTF-8'] += 1
    content['images'] = _fix_images(content['images'], image_dir, changes)
    if not any('segments_info' in entry for entry in content['annotations']):
        content['annotations'] = _fix_annotations(content, changes)
    return content, +changes  # without what is 0


# ---- images ----


def _fix_images(entries: Entries, image_dir: str | Path | None, changes: Counter[str]) -> list[dict[str, Any]]:
    seen, kept = set(), []
    for entry in entries:
        name = entry.get('file_name')
        key = json.dumps(entry, sort_keys=True)
        if key in seen:
            changes['images dropped: the same again'] += 1
            continue
        seen.add(key)
        kept.append(entry)
        if isinstance(name, str):
            entry['file_name'] = _fix_name(name, image_dir, changes)
        for field in ('width', 'height'):
            if isinstance(entry.get(field), str):
                _replace_text(entry, field, float, changes)
        if not all(is_number(entry.get(field)) and entry[field] > 0 for field in ('width', 'height')):
            _measure_image(entry, image_dir, changes)
    return kept


def _fix_name(name: str, image_dir: str | Path | None, changes: Counter[str]) -> str:
    if image_dir is not None and os.path.isfile(os.path.join(image_dir, name)):
        return name
    if '\\' in name:
        changes['file names with / instead of \\'] += 1
        name = name.replace('\\', '/')
    base = os.path.basename(name)
    if image_dir is not None and not os.path.isfile(os.path.join(image_dir, name)) and os.path.isfile(
            os.path.join(image_dir, base)):
        changes['file names without their folders'] += 1
        name = base
    return name


def _measure_image(entry: dict[str, Any], image_dir: str | Path | None, changes: Counter[str]) -> None:
    """Take the size from the image, as it is when loaded; leave it if there is none."""
    try:
        header = read_header(os.path.join(image_dir, entry['file_name']))
    except (OSError, ValueError, TypeError, KeyError):
        return
    entry['width'], entry['height'] = header.loaded_size
    changes['sizes of images filled in'] += 1


# ---- annotations ----


def _fix_annotations(content: Mapping[str, Any], changes: Counter[str]) -> list[dict[str, Any]]:
    entries = content['annotations']
    for entry in entries:
        _fix_mask(entry, changes)
    for field, key in (('image_id', 'images'), ('category_id', 'categories')):
        known = {entry['id'] for entry in content[key] if are_ids([entry.get('id')])}
        for entry in entries:
            if isinstance(entry.get(field), str) and entry[field] not in known:
                _replace_text(entry, field, int, changes)
        kept = [entry for entry in entries if are_ids([entry.get(field)]) and entry[field] in known]
        if not kept:  # all refer to something else than they should
            return entries
        changes[f'annotations dropped: "{field}" of nothing'] += len(entries) - len(kept)
        entries = kept
    sizes = {image['id']: (image.get('width'), image.get('height')) for image in content['images'] if 'id' in image}
    entries = _fix_boxes(entries, read_numbers([list(sizes[entry['image_id']]) for entry in entries], (2, )), changes)
    for entry in entries:
        _fix_area(entry, sizes[entry['image_id']], changes)
        _fix_crowd(entry, changes)
    ids = get_column(entries, 'id')
    if not are_ids(ids) or any(isinstance(own, str) for own in ids) or find_repeated(ids) or 0 in ids:
        for number, entry in enumerate(entries, 1):
            entry['id'] = number
        changes['annotations numbered anew'] += len(entries)
    return entries


def _fix_mask(entry: dict[str, Any], changes: Counter[str]) -> None:
    """Leave out the polygons that no toolbox reads, if others are left."""
    polygons = entry.get('segmentation')
    if isinstance(polygons, list) and all(isinstance(polygon, list) for polygon in polygons):
        kept = [polygon for polygon in polygons if is_polygon(polygon)]
        if kept and len(kept) < len(polygons):
            changes['polygons dropped: fewer than three points, or half a point'] += len(polygons) - len(kept)
            entry['segmentation'] = kept


def _fix_boxes(entries: Entries, sizes: np.ndarray, changes: Counter[str]) -> list[dict[str, Any]]:
    """Take the boxes that no training uses from their masks, or drop them, and cut the others at the edges.

    Args:
        entries: N annotations.
        sizes: (N, 2) width and height of their images; NaN where unknown.
        changes: gets what was done.
    """
    for entry in entries:
        box = entry.get('bbox')
        if isinstance(box, list) and any(isinstance(value, str) for value in box):
            numbers = [_read_text(value, float) for value in box]
            if all(map(is_number, numbers)):
                entry['bbox'] = numbers
                changes['boxes written as numbers'] += 1
    boxes = read_numbers(get_column(entries, 'bbox'), (4, ))
    unread = np.isnan(boxes).any(1)
    if look_like_corners(boxes[~unread], sizes[~unread]) or boxes[~unread].max(initial=0) <= 1:
        return list(entries)  # two corners, or fractions of the image: to be converted by one who knows
    flat, outside, beyond = judge_boxes(boxes, sizes)
    for number in np.flatnonzero(unread | flat | outside):
        entry = entries[number]
        if _has_mask(entry, *sizes[number]):
            left, top, right, bottom = map(float, measure_mask(entry['segmentation']))
            measured = np.array([[left, top, right - left, bottom - top]])
            if not any(chosen[0] for chosen in judge_boxes(measured, sizes[number:number + 1])):
                entry['bbox'] = measured[0].tolist()
                unread[number] = flat[number] = outside[number] = False
                changes['boxes taken from masks'] += 1
    for kind, chosen in (('not four finite numbers', unread), ('a width or height under 1 pixel', flat),
                         ('outside of their images', outside)):
        changes[f'boxes dropped: {kind}'] += int(chosen.sum())
    changes['boxes cut at the edges of their images'] += int(beyond.sum())
    for number in np.flatnonzero(beyond):
        start = np.maximum(boxes[number, :2], 0)
        extent = np.minimum(boxes[number, :2] + boxes[number, 2:], sizes[number]) - start
        entries[number]['bbox'] = [*start.tolist(), *extent.tolist()]
    return [entry for entry, lost in zip(entries, unread | flat | outside) if not lost]


def _fix_area(entry: dict[str, Any], size: tuple[Any, Any], changes: Counter[str]) -> None:
    area = entry.get('area')
    if is_number(area) and area > 0:
        return
    if isinstance(area, str) and (_read_text(area, float) or 0) > 0:
        _replace_text(entry, 'area', float, changes)
        return
    measured = measure_area(entry['segmentation'], *size) if _has_mask(entry, *size) and all(map(is_number, size)) else 0
    _, _, *extent = read_numbers([entry.get('bbox')], (4, ))[0].tolist()
    measured = measured or extent[0] * extent[1]
    if is_number(measured):
        entry['area'] = measured
        changes['areas filled in'] += 1


def _fix_crowd(entry: dict[str, Any], changes: Counter[str]) -> None:
    if 'iscrowd' not in entry:
        entry['iscrowd'] = 0
        changes['"iscrowd": 0 filled in'] += 1
    elif entry['iscrowd'] in ('0', '1'):
        _replace_text(entry, 'iscrowd', int, changes)


def _has_mask(entry: Mapping[str, Any], width: Any = np.nan, height: Any = np.nan) -> bool:
    """Whether there is a mask that can be measured."""
    segmentation = entry.get('segmentation')
    kind = judge_mask(segmentation, width, height)
    return kind is Mask.USABLE or kind is Mask.RUN_LENGTHS and (isinstance(segmentation['counts'], list)
                                                                or covers_image(segmentation))


def _replace_text(entry: dict[str, Any], field: str, kind: type, changes: Counter[str]) -> None:
    """Write a number instead of its text, if it is one."""
    value = _read_text(entry[field], kind)
    if value is not None:
        entry[field] = value
        changes[f'"{field}" written as numbers'] += 1


def _read_text(value: Any, kind: type) -> Any:
    try:
        number = kind(value)
    except (ValueError, TypeError):
        return None
    return int(number) if number == number and abs(number) < 2**53 and number == int(number) else number
