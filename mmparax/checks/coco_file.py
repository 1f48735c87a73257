"""The parts of a file in COCO's format that instances and panoptic segments share: the JSON text, images and categories."""
import gc
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmparax.errors import InputError, MissingFileError
from mmparax.utils.problems import KEPT, ProblemList
from mmparax.utils.text import join_names

FIX = '`tools/doctor.py CONFIG --fix OUT` writes a corrected copy.'
MISSING = object()  # in the place of a field that is not there


@dataclass(frozen=True)
class Images:
    """The images of a file.

    Attributes:
        entries: their descriptions, N of them.
        positions: number of the entry of each image id.
        widths: (N,) float64 in pixels; NaN where there is none.
        heights: (N,) float64.
    """
    entries: Sequence[Mapping[str, Any]]
    positions: Mapping[Any, int]
    widths: np.ndarray
    heights: np.ndarray

    def locate(self, ids: Sequence[Any]) -> np.ndarray:
        """(M,) int64 numbers of the entries that have M ids; -1 for an id that no image has."""
        return np.fromiter((self.positions.get(own, -1) for own in ids), np.int64, len(ids))


# ---- JSON ----


def read_annotations(path: str) -> tuple[dict[str, Any], str]:
    """Read an annotation file.

    Returns:
        Its content and its encoding; ``'utf-8'`` is the one that the toolboxes read.

    Raises:
        MissingFileError: if it is not there.
        InputError: if it is no JSON object, naming the place of the fault.
    """
    if not Path(path).is_file():
        raise MissingFileError(f'the annotation file {path!r} does not exist.')
    raw = Path(path).read_bytes()
    encoding = json.detect_encoding(raw)
    try:
        with _pause_garbage_collection():
            content = json.loads(raw.decode(encoding))
    except UnicodeDecodeError as error:
        raise InputError(f'{path!r} is no text in UTF-8 (byte {error.start}). Save it again as UTF-8.') from error
    except json.JSONDecodeError as error:
        raise InputError(f'{path!r} is no whole JSON file: {error.msg} in line {error.lineno}, column {error.colno}. '
                         'Copy or export it again.') from error
    except RecursionError as error:
        raise InputError(f'{path!r} is no annotation file: its lists are nested too deeply.') from error
    if not isinstance(content, dict):
        raise InputError(f'{path!r} is no file in COCO\'s format: it holds a {type(content).__name__}, and an object with '
                         '"images", "annotations" and "categories" is expected.')
    return content, encoding


@contextmanager
def _pause_garbage_collection() -> Iterator[None]:
    """Millions of new objects, none of them garbage, are looked through again and again: half of the time of reading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_checked(path: str, found: ProblemList) -> dict[str, Any] | None:
    """:func:`read_annotations`, whose errors become problems."""
    try:
        content, encoding = read_annotations(path)
    except (InputError, OSError) as error:
        found.add('annotation files that cannot be read', str(error))
        return None
    if encoding != 'utf-8':
        mark = 'UTF-8 with a byte-order mark' if encoding == 'utf-8-sig' else encoding.upper()
        found.add('annotation files that are not in plain UTF-8, which the toolboxes read', f'{path!r} is in {mark}', FIX)
    return content


def get_entries(content: Mapping[str, Any], key: str, path: str, found: ProblemList) -> list[dict[str, Any]] | None:
    """The list of objects under a key; None, and a problem, if it is anything else."""
    entries = content.get(key)
    if isinstance(entries, list) and set(map(type, entries)) <= {dict}:
        return entries
    has = f'has no list "{key}"' if key not in content else f'"{key}" is no list of objects'
    found.add('annotation files that are not in COCO\'s format',
              f'{path!r}: {has}; it has {join_names(map(repr, content)) or "nothing"}')
    return None


def add_all(found: ProblemList, kind: str, numbers: Sequence[int], describe: Callable[[int], str], remedy: str = '',
            warning: bool = False) -> None:
    """Add a problem for each of some numbers; only those that are kept are described."""
    for number in numbers[:KEPT]:
        found.add(kind, describe(number), remedy, warning)
    if len(numbers) > KEPT:
        found.add(kind, count=len(numbers) - KEPT)


# ---- columns ----


def get_column(entries: Sequence[Mapping[str, Any]], field: str) -> list[Any]:
    """The values of one field; MISSING where there is none."""
    return [entry.get(field, MISSING) for entry in entries]


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_numbers(values: Sequence[Any], shape: tuple[int, ...] = ()) -> np.ndarray:
    """JSON values as an array.

    Args:
        values: N numbers, or lists of numbers.
        shape: of each of them, such as ``(4, )``.

    Returns:
        (N, *shape) float64; NaN where a value is no finite number or has another shape.
    """
    try:
        array = np.array(values)
        regular = array.dtype.kind in 'iuf' and array.shape == (len(values), *shape)
    except (ValueError, OverflowError):  # lists of different lengths
        regular = False
    if not regular:
        size = math.prod(shape)
        array = np.full((len(values), *shape), np.nan)
        for number, value in enumerate(values):
            numbers = value if shape else [value]
            if isinstance(numbers, list) and len(numbers) == size and all(map(is_number, numbers)):
                array[number] = np.reshape(numbers, shape)
    array = array.astype(np.float64)
    array[~np.isfinite(array)] = np.nan
    return array


def find_repeated(ids: Iterable[Any]) -> list[Any]:
    """What is there more than once, in the order of the first ones."""
    ids = list(ids)
    if len(set(ids)) == len(ids):
        return []
    return [own for own, count in Counter(ids).items() if count > 1]


def are_ids(ids: Sequence[Any]) -> bool:
    """Whether all can be compared, as numbers and texts can, and none is missing."""
    return set(map(type, ids)) <= {int, str, float}


# ---- images and categories ----


def check_images(content: Mapping[str, Any], path: str, found: ProblemList) -> Images | None:
    """Check the descriptions of the images; None if nothing can be said of their annotations."""
    entries = get_entries(content, 'images', path, found)
    if entries is None:
        return None
    if not entries:
        found.add('annotation files without images', repr(path))
        return None
    ids, names = get_column(entries, 'id'), get_column(entries, 'file_name')
    for number, entry in enumerate(entries):
        if type(ids[number]) not in (int, str, float):
            found.add(f'images without an "id" in {path!r}', f'number {number} ({entry.get("file_name")!r})')
        if not isinstance(names[number], str) or not names[number]:
            found.add(f'images without a "file_name" in {path!r}', f'image {entry.get("id")!r}')
    sizes = {}
    for field in ('width', 'height'):
        values = get_column(entries, field)
        sizes[field] = read_numbers(values)
        sizes[field][~(sizes[field] > 0)] = np.nan
        for number in np.flatnonzero(np.isnan(sizes[field])):
            given = 'none' if values[number] is MISSING else repr(values[number])
            found.add(f'images without a "{field}" in pixels in {path!r}',
                      f'image {ids[number]!r} ({names[number]!r}) has {given}', FIX)
    if not are_ids(ids) or set(map(type, names)) != {str}:
        return None
    repeated = find_repeated(ids)
    if repeated:
        files = {own: [name for other, name in zip(ids, names) if other == own] for own in repeated[:20]}
        for own in repeated:
            found.add(
                f'ids that several images have in {path!r}',
                f'image {own!r}: {join_names(map(repr, files[own]))}' if own in files else '',
                'One gets the annotations of all, the others are lost: give each image an id of its own, and its '
                'annotations that "image_id".')
    twice = find_repeated(names)
    add_all(found, f'file names that several images have in {path!r}', range(len(twice)), lambda number: repr(twice[number]),
            'The objects of one are background in the other: join them.', warning=True)
    return Images(entries, {own: number for number, own in enumerate(ids)}, sizes['width'], sizes['height'])


def check_categories(content: Mapping[str, Any], path: str, found: ProblemList) -> list[dict[str, Any]] | None:
    """Check the list of categories; None if nothing can be said of the annotations."""
    entries = get_entries(content, 'categories', path, found)
    if entries is None:
        return None
    ids, names = get_column(entries, 'id'), get_column(entries, 'name')
    if not entries or not are_ids(ids) or not set(map(type, names)) <= {str}:
        found.add('annotation files whose "categories" have not all an "id" and a "name"', repr(path))
        return None
    for field, values in (('id', ids), ('name', names)):
        for value in find_repeated(values):
            found.add(f'categories with the same "{field}" in {path!r}', repr(value), 'Every class needs one of its own.')
    return entries
