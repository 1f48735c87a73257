"""What can be wrong with panoptic segments in COCO's format: a JSON file and a folder of coloured maps."""
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mmparax.checks.coco import SMALLEST, check_kept_images
from mmparax.checks.coco_file import (
    MISSING,
    Images,
    are_ids,
    check_categories,
    check_images,
    find_repeated,
    get_column,
    get_entries,
    read_checked,
    read_numbers,
)
from mmparax.checks.image_files import check_existence
from mmparax.checks.usage import Usage
from mmparax.utils.images import open_image
from mmparax.utils.problems import ProblemList
from mmparax.utils.spread import spread
from mmparax.utils.text import join_names

VOID = 0  # id of the pixels that belong to no segment


def check_panoptic(path: str, usage: Usage, sample: int | None = None) -> ProblemList:
    """Check an annotation file of panoptic segments, its maps, and the images that it names.

    Args:
        path: the file.
        usage: what the data set makes of it.
        sample: how many images and maps to look at; None means all.
    """
    found = ProblemList()
    content = read_checked(path, found)
    if content is None:
        return found
    images, categories = check_images(content, path, found), check_categories(content, path, found)
    annotations = get_entries(content, 'annotations', path, found)
    if images is None or categories is None or annotations is None:
        return found
    _check_kinds(categories, usage, path, found)
    segments = _list_segments(annotations, images, path, found)
    if segments is None:
        return found
    things = {category['id'] for category in categories if category.get('isthing')}
    with_things = _check_segments(segments, {category['id'] for category in categories}, things, path, found)
    kept = ~(np.minimum(images.widths, images.heights) < usage.min_size)
    if usage.filter_empty:
        kept &= np.isin(np.arange(len(kept)), list(with_things))
    check_kept_images(images, kept, usage, path, sample, found)
    _check_maps(images, segments, np.flatnonzero(kept), usage, path, sample, found)
    return found


def _check_kinds(categories: Sequence[Mapping[str, Any]], usage: Usage, path: str, found: ProblemList) -> None:
    """Compare what is a thing with the config; mmdetection numbers things before stuff."""
    things, stuff = (tuple(usage.metainfo.get(name) or ()) for name in ('thing_classes', 'stuff_classes'))
    place = f'{usage.place}.metainfo'
    if usage.classes and set(usage.classes) != {*things, *stuff}:
        wrong = sorted({*usage.classes} ^ {*things, *stuff})
        found.add('lists of classes that do not agree',
                  f'{place}.thing_classes and stuff_classes are not together its classes: {join_names(map(repr, wrong))}',
                  f'Set {place}=dict(classes=..., thing_classes=..., stuff_classes=...).')
        return
    for category in categories:
        name, kind = category['name'], category.get('isthing', MISSING)
        if kind is MISSING or kind not in (0, 1):
            found.add(f'categories without "isthing": 0 or 1 in {path!r}', repr(name), 'Write 1 for things, 0 for stuff.')
        elif name in things and not kind or name in stuff and kind:
            found.add(
                f'categories that {path!r} and the config call different things',
                f'{name!r} is {"a thing" if kind else "stuff"} in the file and in {place}.{"stuff" if kind else "thing"}_classes',
                f'Change "isthing", or {place}.')
    names = [category['name'] for category in categories if not usage.classes or category['name'] in usage.classes]
    if names[:len(things)] != [name for name in names if name in things]:
        found.add('annotation files whose categories are not in the order things, stuff',
                  f'{path!r}: {join_names(map(repr, names))}',
                  'The heads number things first: sort "categories", and the classes of the config with them.')


def _list_segments(annotations: Sequence[Mapping[str, Any]], images: Images, path: str,
                   found: ProblemList) -> dict[int, list[dict[str, Any]]] | None:
    """The segments of each image, by its number."""
    image_ids = get_column(annotations, 'image_id')
    segments: dict[int, list[dict[str, Any]]] = {}
    whole = True
    for number, annotation in enumerate(annotations):
        own = annotation.get('segments_info')
        if not are_ids([image_ids[number]]):
            whole = False
            found.add(f'annotations without "image_id" in {path!r}', f'number {number}')
        elif not isinstance(own, list) or not set(map(type, own)) <= {dict}:
            whole = False
            found.add(f'annotations without a list "segments_info" in {path!r}', f'of image {image_ids[number]!r}',
                      'Panoptic segments are needed: a file of instances has another format.')
        elif image_ids[number] not in images.positions:
            found.add(f'annotations of images that {path!r} does not list', f'image {image_ids[number]!r}',
                      'Nothing is learned from them.', warning=True)
        else:
            segments.setdefault(images.positions[image_ids[number]], []).extend(own)
    if not whole:
        return None
    for own in find_repeated(image_ids):
        found.add(f'images with several annotations in {path!r}', f'image {own!r}', 'Each has one list "segments_info".')
    if not any(segments.values()):
        found.add('annotation files without any segment', repr(path))
    return segments


def _check_segments(segments: Mapping[int, Sequence[dict[str, Any]]], known: set[Any], things: set[Any], path: str,
                    found: ProblemList) -> set[int]:
    """Check the fields of all segments; returns the numbers of the images with things."""
    flat = [(at, segment) for at, own in segments.items() for segment in own]
    entries = [segment for _, segment in flat]
    bad = np.zeros(len(flat), bool)
    for field, shape in (('id', ()), ('category_id', ()), ('area', ()), ('bbox', (4, ))):
        values = get_column(entries, field)
        if field == 'category_id':
            wrong = [number for number, value in enumerate(values) if not are_ids([value])]
        else:
            wrong = np.flatnonzero(np.isnan(read_numbers(values, shape)).any(axis=tuple(range(1, 1 + len(shape))))).tolist()
        for number in wrong:
            given = 'none' if values[number] is MISSING else f'{values[number]!r:.80}'
            found.add(f'segments without a usable "{field}" in {path!r}', f'{_describe(entries[number])}: {given}')
        bad[wrong] = True
        if field == 'category_id':
            for number in [number for number, value in enumerate(values) if are_ids([value]) and value not in known]:
                found.add(f'segments of categories that {path!r} does not list',
                          f'{_describe(entries[number])}: {values[number]!r}', 'Add the category, or remove the segments.')
                bad[number] = True
    for own in segments.values():
        for segment_id in find_repeated(segment.get('id') for segment in own if are_ids([segment.get('id')])):
            found.add(f'ids that several segments of an image have in {path!r}', repr(segment_id))
    areas, boxes = read_numbers(get_column(entries, 'area')), read_numbers(get_column(entries, 'bbox'), (4, ))
    small = ~bad & ((areas <= 0) | (boxes[:, 2:] < SMALLEST).any(1))
    for number in np.flatnonzero(small):
        found.add(f'segments with an area of 0 or a side under 1 pixel in {path!r}', _describe(entries[number]),
                  'Training leaves them out.', warning=True)
    usable = ~bad & ~small
    if len(usable) and not usable.any():
        found.add('annotation files of which no segment can be used', f'{path!r}: 0 of {len(usable)} segments usable')
    return {
        at for (at, segment), use in zip(flat, usable) if use and segment['category_id'] in things and not segment.get('iscrowd')
    }


def _describe(segment: Mapping[str, Any]) -> str:
    return f'segment {segment["id"]!r}' if 'id' in segment else f'a segment of category {segment.get("category_id")!r}'


def _check_maps(images: Images, segments: Mapping[int, Sequence[Mapping[str, Any]]], kept: np.ndarray, usage: Usage, path: str,
                sample: int | None, found: ProblemList) -> None:
    """Check that the maps are there and show the segments."""
    folder = usage.paths.get('data_prefix.seg')
    if folder is None:
        found.add('data sets without panoptic maps', usage.place, f'Set {usage.place}.data_prefix.seg to their folder.')
        return
    if not usage.local or '://' in folder:
        return
    names = [images.entries[at]['file_name'].replace('.jpg', '.png') for at in kept]  # as mmdetection does
    missing = check_existence(folder, names, path, f'{usage.place}.data_prefix.seg', found)
    drawn = [number for number in range(len(kept)) if number not in missing]
    drawn = [drawn[at] for at in spread(len(drawn), sample)]
    with ThreadPoolExecutor() as pool:
        maps = list(pool.map(_read_map, [os.path.join(folder, names[number]) for number in drawn]))
    for number, content in zip(drawn, maps):
        at, name = kept[number], names[number]
        if isinstance(content, str):
            found.add('panoptic maps that cannot be read', f'{name!r}: {content}')
            continue
        ids, (width, height) = content
        if (width, height) != (images.widths[at], images.heights[at]):
            found.add(f'panoptic maps of another size than their images in {path!r}',
                      f'{name!r} is {width}x{height} and not {images.widths[at]:g}x{images.heights[at]:g}')
        listed = {segment.get('id') for segment in segments.get(at, ())}
        absent, unlisted = sorted(listed - ids, key=str), sorted(ids - listed - {VOID})
        if absent:
            found.add(f'panoptic maps without segments that {path!r} lists',
                      f'{name!r}: ids {join_names(map(str, absent))}; it has '
                      f'{join_names(map(str, sorted(ids - {VOID})))}',
                      'A pixel of id = R + 256 G + 65536 B belongs to a segment: the maps must be RGB and of this file.')
        elif unlisted:
            found.add(f'panoptic maps with segments that {path!r} does not list',
                      f'{name!r}: ids {join_names(map(str, unlisted))}', 'Their pixels are ignored.', warning=True)


def _read_map(path: str) -> tuple[set[int], tuple[int, int]] | str:
    """The ids of a map and its (width, height), or what is wrong with it."""
    try:
        with open_image(path) as image:
            pixels = np.asarray(image.convert('RGB'), np.int64)
    except (OSError, ValueError, SyntaxError) as error:
        return str(error)
    ids = pixels @ np.array([1, 256, 256**2])
    return set(np.unique(ids).tolist()), (ids.shape[1], ids.shape[0])
