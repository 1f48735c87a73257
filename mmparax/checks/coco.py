"""What can be wrong with an annotation file in COCO's format, seen in one pass: what is said is what mmdetection makes of it."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmparax.checks.coco_file import (
    FIX,
    MISSING,
    Images,
    add_all,
    are_ids,
    check_categories,
    check_images,
    find_repeated,
    get_column,
    get_entries,
    read_checked,
    read_numbers,
)
from mmparax.checks.coco_masks import Mask, covers_image, judge_mask, measure_mask
from mmparax.checks.image_files import check_existence, check_sizes
from mmparax.checks.usage import Usage
from mmparax.utils.problems import ProblemList
from mmparax.utils.spread import spread

SMALLEST = 1.  # pixels: mmdetection leaves narrower and lower boxes out
EDGE = 1.  # pixels by which a box may reach beyond its image: its last pixel counted or not
SEVERAL = 5  # boxes that have something in common not by chance
MEASURED = 2000  # masks whose places are compared with those of their boxes
APART = 0.1  # intersection over union below which they are not of one object


@dataclass
class Objects:
    """The annotations of a file as columns, N of them.

    Attributes:
        entries: as they are in the file.
        ids, image_ids: of each.
        at: (N,) int64 numbers of their images; -1 for none.
        of_class: (N,) bool: of an image of the file and a class of the data set.
        ignored: (N,) bool: marked ``ignore``.
        crowd: (N,) bool: marked ``iscrowd``.
        boxes: (N, 4) float64 x, y, width, height in pixels; NaN where one cannot be read.
        areas: (N,) float64 square pixels; NaN where one cannot be read.
        bad_box, bad_mask: (N,) bool: not usable for this reason.
    """
    entries: Sequence[Mapping[str, Any]]
    ids: list[Any]
    image_ids: list[Any]
    at: np.ndarray
    of_class: np.ndarray
    ignored: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    bad_box: np.ndarray
    bad_mask: np.ndarray

    @property
    def usable(self) -> np.ndarray:
        """(N,) bool: what a model can learn from."""
        return self.of_class & ~(self.ignored | self.crowd | self.bad_box | self.bad_mask)

    def describe(self, number: int) -> str:
        """Name one."""
        own = '' if self.ids[number] is MISSING else f' {self.ids[number]!r}'
        return f'annotation{own} of image {self.image_ids[number]!r}'


def check_coco(path: str, usage: Usage, sample: int | None = None) -> ProblemList:
    """Check an annotation file of instances and the images that it names.

    Args:
        path: the file.
        usage: what the data set makes of it.
        sample: how many images to look at; None means all.
    """
    found = ProblemList()
    content = read_checked(path, found)
    if content is not None:
        check_content(content, path, usage, sample, found)
    return found


def check_content(content: Mapping[str, Any], path: str, usage: Usage, sample: int | None, found: ProblemList) -> None:
    """:func:`check_coco` of a file that was read."""
    images, categories = check_images(content, path, found), check_categories(content, path, found)
    if images is None or categories is None:
        return
    if 'annotations' not in content and not usage.needs_annotations:
        entries: list[dict[str, Any]] | None = []
    else:
        entries = get_entries(content, 'annotations', path, found)
    if entries is None:
        return
    kept = ~(np.minimum(images.widths, images.heights) < usage.min_size)  # those of unknown size, too
    if entries:
        objects = _read_objects(entries, images, categories, usage, path, found)
        if objects is None:
            return
        _check_boxes(objects, images, path, found)
        if usage.needs_masks:
            _check_masks(objects, images, usage, path, found)
        _check_usable(objects, usage, path, found)
        if usage.filter_empty:
            kept &= np.isin(np.arange(len(kept)), objects.at[objects.of_class])
    elif usage.needs_annotations:
        found.add('annotation files without any annotation', repr(path))
        kept &= not usage.filter_empty
    check_kept_images(images, kept, usage, path, sample, found)


# ---- fields ----


def _read_objects(entries: Sequence[Mapping[str, Any]], images: Images, categories: Sequence[Mapping[str, Any]], usage: Usage,
                  path: str, found: ProblemList) -> Objects | None:
    """Make columns of the annotations and check what they refer to; None if that cannot be told."""
    ids, image_ids, category_ids = (get_column(entries, field) for field in ('id', 'image_id', 'category_id'))
    if not (are_ids(image_ids) and are_ids(category_ids)):
        for field, values in (('image_id', image_ids), ('category_id', category_ids)):
            missing = [number for number, value in enumerate(values) if not are_ids([value])]
            add_all(found, f'annotations without "{field}" in {path!r}', missing, lambda number: f'number {number}', FIX)
        return None
    classes = {category['id'] for category in categories if usage.classes is None or category['name'] in usage.classes}
    at = images.locate(image_ids)
    ignored = np.array([bool(entry.get('ignore')) for entry in entries])
    objects = Objects(entries, ids, image_ids, at,
                      np.fromiter((own in classes for own in category_ids), bool, len(entries)) & (at >= 0), ignored,
                      np.zeros_like(ignored), read_numbers(get_column(entries, 'bbox'), (4, )),
                      read_numbers(get_column(entries, 'area')), np.zeros_like(ignored), np.zeros_like(ignored))
    _check_references(objects, category_ids, {category['id'] for category in categories}, path, found)
    _check_ids(objects, usage, path, found)
    for field, values in (('bbox', objects.boxes), ('area', objects.areas)):
        _check_numbers(objects, field, values, path, found)
    _check_crowd(objects, usage, path, found)
    return objects


def _check_references(objects: Objects, category_ids: Sequence[Any], known: set[Any], path: str, found: ProblemList) -> None:
    total = len(objects.entries)
    without_image = np.flatnonzero(objects.at < 0)
    unknown = [number for number, own in enumerate(category_ids) if own not in known]
    lost = f'Nothing is learned from them. {FIX}'
    add_all(found, f'annotations of images that {path!r} does not list ({total} in all)', without_image, objects.describe, lost,
            len(without_image) < total)
    add_all(found, f'annotations of categories that {path!r} does not list ({total} in all)', unknown,
            lambda number: f'{objects.describe(number)}: category {category_ids[number]!r}', lost,
            len(unknown) < total)


def _check_ids(objects: Objects, usage: Usage, path: str, found: ProblemList) -> None:
    if not are_ids(objects.ids):
        missing = [number for number, own in enumerate(objects.ids) if not are_ids([own])]
        add_all(found, f'annotations without "id" in {path!r}', missing,
                lambda number: f'number {number}, {objects.describe(number)}', FIX)
        return
    repeated = find_repeated(objects.ids)
    add_all(found, f'ids that several annotations have in {path!r}', range(len(repeated)), lambda number: repr(repeated[number]),
            FIX)
    # pycocotools keeps the ids of matches in an array of numbers, and fails at the first match.
    texts = [number for number, own in enumerate(objects.ids) if isinstance(own, str)] if usage.evaluated else []
    add_all(found, f'annotations whose "id" is a text in {path!r}', texts,
            lambda number: f'{objects.describe(number)}: {objects.ids[number]!r:.80}', f"COCO's evaluation needs numbers. {FIX}")
    # A ground truth of this id counts as not found in COCO's evaluation.
    if usage.evaluated and not repeated and 0 in objects.ids:
        found.add(f'annotations with the id 0 in {path!r}', objects.describe(objects.ids.index(0)),
                  f'COCO\'s evaluation takes 0 for "no match": let them start at 1. {FIX}', warning=True)


def _check_numbers(objects: Objects, field: str, values: np.ndarray, path: str, found: ProblemList) -> None:
    expected = 'four finite numbers' if values.ndim > 1 else 'a finite number'
    unread = np.flatnonzero(np.isnan(values).any(axis=tuple(range(1, values.ndim))) & ~objects.ignored)
    absent = [number for number in unread if field not in objects.entries[number]]
    add_all(found, f'annotations without "{field}" in {path!r}', absent, objects.describe, FIX)
    if len(absent) < len(unread):
        add_all(found, f'annotations in {path!r} whose "{field}" is not {expected}',
                [number for number in unread if field in objects.entries[number]],
                lambda number: f'{objects.describe(number)}: {objects.entries[number][field]!r:.80}', FIX)


def _check_crowd(objects: Objects, usage: Usage, path: str, found: ProblemList) -> None:
    values = get_column(objects.entries, 'iscrowd')
    objects.crowd = np.array([value is not MISSING and bool(value) for value in values])
    if set(map(type, values)) <= {int, bool} and set(values) <= {0, 1}:
        return
    # Training takes it for 0, the evaluation of boxes and masks does not.
    add_all(found, f'annotations without "iscrowd" in {path!r}',
            [number for number, value in enumerate(values) if value is MISSING], objects.describe, FIX,
            warning=not usage.evaluated)
    add_all(found, f'annotations in {path!r} whose "iscrowd" is not 0 or 1', [
        number for number, value in enumerate(values)
        if value is not MISSING and not (isinstance(value, (int, float)) and value in (0, 1))
    ], lambda number: f'{objects.describe(number)}: {values[number]!r:.80}')


# ---- boxes and masks ----


def _check_boxes(objects: Objects, images: Images, path: str, found: ProblemList) -> None:
    """Count the boxes that mmdetection leaves out or cuts."""
    # The last number stands for "no image", whose size is unknown.
    sizes = np.stack([np.append(values, np.nan)[objects.at] for values in (images.widths, images.heights)], 1)
    counted = objects.of_class & ~objects.ignored
    flat, outside, beyond = judge_boxes(objects.boxes, sizes)
    without_area = ~flat & ~outside & (objects.areas <= 0)
    objects.bad_box = flat | outside | without_area | np.isnan(objects.boxes).any(1) | np.isnan(objects.areas)
    if look_like_corners(objects.boxes[counted], sizes[counted]):
        beyond &= counted
        found.add(f'boxes in {path!r} that seem to be two corners', _show_box(objects, images,
                                                                              np.flatnonzero(beyond)[0]),
                  'COCO\'s boxes are x, y, width, height: subtract the first corner from the second.', count=int(counted.sum()))
        beyond[:] = False
    for kind, chosen, remedy in (
        ('with a width or height under 1 pixel', flat, f'Training leaves them out. {FIX}'),
        ('outside of their images', outside, f'Training leaves them out. {FIX}'),
        ('with an area of 0 or less', without_area, f'Training leaves them out. {FIX}'),
        ('that reach beyond their images', beyond, f'They are cut at the edges. {FIX}'),
    ):
        add_all(found, f'boxes in {path!r} {kind}', np.flatnonzero(counted & chosen),
                lambda number: _show_box(objects, images, number), remedy, warning=True)


def _show_box(objects: Objects, images: Images, number: int) -> str:
    width, height = images.widths[objects.at[number]], images.heights[objects.at[number]]
    return f'{objects.describe(number)} ({width:g}x{height:g}): {objects.entries[number].get("bbox")!r:.80}'


def judge_boxes(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the boxes that mmdetection leaves out or cuts.

    Args:
        boxes: (N, 4) x, y, width, height in pixels; NaN is none of the three.
        sizes: (N, 2) width and height of their images.

    Returns:
        Three of (N,) bool: narrower or lower than a pixel; outside of the image; partly outside.
    """
    start, extent = boxes[:, :2], boxes[:, 2:]
    flat = (extent < SMALLEST).any(1)
    outside = ~flat & (np.minimum(start + extent, sizes) - np.maximum(start, 0) <= 0).any(1)
    beyond = ~flat & ~outside & ((start < -EDGE) | (start + extent > sizes + EDGE)).any(1)
    return flat, outside, beyond


def look_like_corners(boxes: np.ndarray, sizes: np.ndarray) -> bool:
    """Whether some boxes make no sense as x, y, width, height, and all do as two corners."""
    start, stop = boxes[:, :2], boxes[:, 2:]
    makes_sense = (start >= 0).all(1) & (stop > start).all(1) & (stop <= sizes).all(1)
    return len(boxes) >= SEVERAL and bool(makes_sense.all()) and bool(judge_boxes(boxes, sizes)[2].any())


def _check_masks(objects: Objects, images: Images, usage: Usage, path: str, found: ProblemList) -> None:
    """Check the masks of the boxes that are read."""
    loaded = np.flatnonzero(objects.of_class & ~objects.ignored & ~objects.bad_box)
    faults: dict[Mask, list[int]] = {kind: [] for kind in Mask}
    for number, at in zip(loaded.tolist(), objects.at[loaded].tolist()):
        faults[judge_mask(objects.entries[number].get('segmentation'), images.widths[at], images.heights[at])].append(number)
    boxes_alone = ('Without masks train boxes alone: a model without mask_head, LoadAnnotations without with_mask=True, and '
                   "metric='bbox'.")
    told = {
        Mask.ABSENT: ('without a mask ("segmentation")', boxes_alone, False),
        Mask.MALFORMED: ('whose "segmentation" is neither a list of polygons [[x1, y1, x2, y2, ...], ...] nor a run-length code',
                         '', False),
        Mask.OTHER_SIZE: ('whose run-length codes have another size than their images', 'Encode masks of the size of the image.',
                          False),
        Mask.IGNORED: ('without one polygon of three points or more', 'Training leaves them out.', True),
    }
    if not usage.reads_rle:
        told[Mask.RUN_LENGTHS] = ('whose masks are run-length codes, which LoadAnnotations(poly2mask=False) does not read',
                                  'Training leaves them out: set poly2mask=True.', True)
    for kind, (text, remedy, warning) in told.items():
        objects.bad_mask[faults[kind]] = True
        add_all(found, f'annotations in {path!r} {text}', faults[kind], objects.describe, remedy, warning)
    readable = np.array(sorted(faults[Mask.USABLE] + faults[Mask.RUN_LENGTHS]), int)
    for number in readable[list(spread(len(readable), MEASURED))]:
        x, y, width, height = objects.boxes[number]
        segmentation = objects.entries[number]['segmentation']
        if isinstance(segmentation, dict) and isinstance(segmentation['counts'], str) and not covers_image(segmentation):
            found.add(f'annotations in {path!r} whose run-length codes do not fill their images', objects.describe(number),
                      'Such a code stops training: encode the masks again.')
            continue
        left, top, right, bottom = measure_mask(segmentation)
        common = max(0, min(right, x + width) - max(left, x)) * max(0, min(bottom, y + height) - max(top, y))
        if common < APART * ((right - left) * (bottom - top) + width * height - common):
            found.add(
                f'annotations in {path!r} whose masks lie elsewhere than their boxes',
                f'{objects.describe(number)}: box {width:g}x{height:g} at ({x:g}, {y:g}), mask '
                f'{right - left:g}x{bottom - top:g} at ({left:g}, {top:g})', 'One of them is wrong.', warning=True)


def _check_usable(objects: Objects, usage: Usage, path: str, found: ProblemList) -> None:
    """Refuse a file from which nothing is learned."""
    usable, total = objects.usable, len(objects.entries)
    if usable.any() or not usage.needs_annotations:
        return
    reasons = [('of no image or no class of the data set', ~objects.of_class), ('marked "ignore"', objects.ignored),
               ('marked "iscrowd"', objects.crowd), ('with a box that is left out', objects.bad_box),
               ('with a mask that is left out', objects.bad_mask)]
    text = ', '.join(f'{chosen.sum()} {reason}' for reason, chosen in reasons if chosen.any())
    remedy = ''
    if not objects.of_class.any():
        remedy = f'Compare {usage.place}.metainfo.classes, "categories" and the ids.'
    elif objects.crowd.all():
        remedy = '"iscrowd": 1 marks groups that are not learned: write 0 for single objects.'
    elif np.nanmax(objects.boxes, initial=0) <= 1:
        remedy = 'The boxes seem to be fractions of the images: COCO\'s are in pixels.'
    elif objects.bad_mask.any() and not usage.reads_rle:
        remedy = 'Set poly2mask=True in LoadAnnotations.'
    found.add(f'annotation files of which no annotation can be used ({path!r})', f'0 of {total} annotations usable: {text}',
              remedy)


# ---- images ----


def check_kept_images(images: Images, kept: np.ndarray, usage: Usage, path: str, sample: int | None, found: ProblemList) -> None:
    """Check that images are left by the filter, that their files are there, and their sizes.

    Args:
        images: of the file.
        kept: (N,) bool: those that the filter keeps.
        usage: what the data set makes of them.
        path: the file.
        sample: how many of their files to look at; None means all.
        found: gets the problems.
    """
    small = int((np.minimum(images.widths, images.heights) < usage.min_size).sum())
    total, number = len(kept), int(kept.sum())
    reasons = f'{small} have a side under {usage.min_size:g} pixels' if small else ''
    if number + small < total:
        reasons += (', ' if reasons else '') + f'{total - number - small} others have no annotation of a class'
    chosen = usage.select(np.flatnonzero(kept))
    if not len(chosen):
        reasons = reasons or f'indices={usage.indices!r} takes none'
        found.add('data sets without images', f'{path!r} has {total} images, of which {reasons}',
                  f'{usage.describe_filter()} leaves all of them out.' if not number else '')
        return
    if small or number < total / 2:
        found.add(f'images that the filter leaves out of {path!r} ({total} in all)', reasons,
                  f'{usage.describe_filter()} asks for that.', warning=True, count=total - number)
    folder = usage.paths.get('data_prefix.img', usage.paths.get('data_prefix.img_path', usage.paths.get('data_root', '')))
    if not usage.local or '://' in folder:
        return
    names = [images.entries[at]['file_name'] for at in chosen]
    missing = check_existence(folder, names, path, f'{usage.place}.data_prefix.img', found)
    there = [at for number, at in enumerate(chosen) if number not in missing]
    there = [there[at] for at in spread(len(there), sample)]
    check_sizes([f'{folder}/{images.entries[at]["file_name"]}' for at in there],
                [(images.widths[at], images.heights[at]) for at in there], usage, path, found)
