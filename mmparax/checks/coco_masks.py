"""What can be wrong with the masks of a file in COCO's format: polygons and run-length codes."""
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from mmparax.checks.coco_file import is_number

SHORTEST = 6  # numbers of a polygon: three corners


class Mask(Enum):
    """What mmdetection makes of one ``segmentation``."""
    USABLE = 'usable'
    ABSENT = 'absent'
    MALFORMED = 'malformed'  # an error while loading
    IGNORED = 'ignored'  # the object is left out of training
    RUN_LENGTHS = 'run lengths'  # usable if the pipeline reads them
    OTHER_SIZE = 'other size'


def judge_mask(segmentation: Any, width: float, height: float) -> Mask:
    """Judge one ``segmentation`` of an image of (width, height) pixels."""
    if segmentation is None or segmentation == [] or segmentation == {}:
        return Mask.ABSENT
    if isinstance(segmentation, dict):
        return _judge_run_lengths(segmentation, width, height)
    if not isinstance(segmentation, list):
        return Mask.MALFORMED
    if not set(map(type, segmentation)) <= {list}:  # such as one flat list of numbers
        return Mask.MALFORMED
    polygons = [polygon for polygon in segmentation if is_polygon(polygon)]
    if not all(map(are_numbers, polygons)):
        return Mask.MALFORMED
    return Mask.USABLE if polygons else Mask.IGNORED


def is_polygon(polygon: list[Any]) -> bool:
    """Whether mmdetection takes it: pairs of numbers, three at least."""
    return len(polygon) >= SHORTEST and len(polygon) % 2 == 0


def are_numbers(polygon: Iterable[Any]) -> bool:
    """Whether all are finite numbers; the fast way tells most."""
    types = set(map(type, polygon))
    if not types <= {int, float}:
        return False
    total = sum(polygon)
    return total - total == 0 or all(map(is_number, polygon))


def _judge_run_lengths(segmentation: Mapping[str, Any], width: float, height: float) -> Mask:
    counts, size = segmentation.get('counts'), segmentation.get('size')
    if not isinstance(counts, (list, str)) or not isinstance(size, list) or len(size) != 2 or not all(map(is_number, size)):
        return Mask.MALFORMED
    if isinstance(counts, list):
        if not all(map(is_number, counts)):
            return Mask.MALFORMED
        if sum(counts) != size[0] * size[1]:
            return Mask.OTHER_SIZE
    if width == width and height == height and size != [height, width]:
        return Mask.OTHER_SIZE
    return Mask.RUN_LENGTHS


def covers_image(segmentation: Any) -> bool:
    """Whether the runs of a compressed run-length code fill its image exactly; pycocotools reads past the end of others.

    A run is a number in groups of five bits, the lowest first, each a character from ``'0'`` on: bit 5 says that another follows,
    bit 4 of the last is the sign. From the fourth run on it is the difference to the run two before.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in segmentation['counts']:
        group = ord(character) - ord('0')
        if not 0 <= group < 64:
            return False
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (group >> 4 & 1) << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value, shift = 0, 0
    return shift == 0 and min(runs, default=-1) >= 0 and sum(runs) == math.prod(segmentation['size'])


def measure_mask(segmentation: Any) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a usable mask in pixels."""
    if isinstance(segmentation, dict):
        from pycocotools import mask as coco_masks  # only to measure masks
        code = coco_masks.frPyObjects(segmentation, *segmentation['size']) if isinstance(segmentation['counts'],
                                                                                         list) else segmentation
        x, y, width, height = coco_masks.toBbox(code)
        return x, y, x + width, y + height
    polygons = [polygon for polygon in segmentation if is_polygon(polygon)]
    across, down = ([value for polygon in polygons for value in polygon[first::2]] for first in (0, 1))
    return min(across), min(down), max(across), max(down)


def measure_area(segmentation: Any, width: float, height: float) -> int:
    """Pixels of a usable mask in an image of (width, height) pixels."""
    from pycocotools import mask as coco_masks
    if isinstance(segmentation, dict) and isinstance(segmentation['counts'], str):
        return int(coco_masks.area(segmentation))
    polygons = [polygon for polygon in segmentation if is_polygon(polygon)] if isinstance(segmentation, list) else segmentation
    codes = coco_masks.frPyObjects(polygons, int(height), int(width))
    return int(coco_masks.area(coco_masks.merge(codes) if isinstance(codes, list) else codes))
