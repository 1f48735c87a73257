"""Where a prediction is right and where it is wrong, as a picture: pixels of a class map, segments and objects.

Colours are those of Okabe and Ito that differ for colour-blind readers, too, and in their lightness.
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mmparax.inference.drawing import (
    INSTANCE_OFFSET,
    Size,
    choose_font,
    enlarge,
    find_masks,
    find_places,
    get_true_objects,
    name_class,
    read_true_map,
    to_array,
)
from mmparax.inference.labels import WHITE, Color, Labeller

MIN_IOU = 0.5
RIGHT, WRONG, MISSED, IGNORED = 'right', 'wrong', 'missed', 'ignored'
COLORS: dict[str, Color] = {RIGHT: (86, 180, 233), WRONG: (213, 94, 0), MISSED: (240, 228, 66), IGNORED: (150, 150, 150)}
OPACITIES = {RIGHT: 0.4, WRONG: 0.7, MISSED: 0., IGNORED: 1.}
DASH = 6  # pixels of a dash of an outline


@dataclass(frozen=True)
class Verdict:
    """What is said of an object or a segment.

    Attributes:
        kind: ``RIGHT``, ``WRONG`` or ``MISSED``.
        mask: (H, W) bool.
        text: what to write on it.
        confused: it is wrong, but has the place of a true one of another class.
    """
    kind: str
    mask: np.ndarray
    text: str
    confused: bool = False


def draw_verdict(image: np.ndarray, sample: Any, classes: Sequence[str], score_thr: float = 0.3,
                 size: Size | None = None) -> tuple[np.ndarray, str] | None:
    """Draw where the prediction in a data sample is right and where it is wrong.

    Args:
        image: (H, W, 3) uint8 RGB, at the size of the prediction.
        sample: of mmseg or mmdet, with prediction and ground truth.
        classes: names of the classes.
        score_thr: leave out objects with a lower score.
        size: (height, width) of the picture, as of :func:`mmparax.inference.drawing.draw_sample`.

    Returns:
        The picture, (height, width, 3) uint8 RGB, and how much is right, in words. None if one of the two is missing.
    """
    truth, shape = read_true_map(sample, image.shape[:2]), image.shape[:2]
    if 'pred_sem_seg' in sample and truth is not None:
        return _draw_pixels(image, truth, to_array(sample.pred_sem_seg.data)[0], len(classes), size)
    if 'pred_panoptic_seg' in sample and truth is not None:
        predicted = split_segments(to_array(sample.pred_panoptic_seg.sem_seg)[0], len(classes))
        true, ignored = split_segments(truth, len(classes)), ~_is_known(truth, len(classes))
        names = [name_class(classes, label) for label in predicted[1]]
    elif 'pred_instances' in sample and get_true_objects(sample) is not None:
        objects = get_true_objects(sample)
        found = sample.pred_instances[sample.pred_instances.scores >= score_thr]
        order = np.argsort(-to_array(found.scores), kind='stable')
        predicted, true = ((_read_masks(each, shape), to_array(each.labels).astype(int)) for each in (found, objects))
        predicted = predicted[0][order], predicted[1][order]
        ignored = _read_masks(sample.ignored_instances, shape).any(0) if 'ignored_instances' in sample else np.zeros(shape, bool)
        names = [name_class(classes, label) for label in predicted[1]]
    else:
        return None
    verdicts = judge_objects(*true, *predicted, [name_class(classes, label) for label in true[1]], names, ignored)
    return _draw_verdicts(image, verdicts, ignored, 'pred_panoptic_seg' in sample, size), describe_verdicts(verdicts)


def judge_objects(true_masks: np.ndarray, true_labels: np.ndarray, masks: np.ndarray, labels: np.ndarray,
                  true_names: Sequence[str], names: Sequence[str], ignored: np.ndarray) -> list[Verdict]:
    """Match predicted objects, the surest first, with true ones of their class at an IoU of at least 0.5.

    Args:
        true_masks, masks: (n, H, W) bool.
        true_labels, labels: (n,) their classes.
        true_names, names: of their classes.
        ignored: (H, W) bool; nothing is said of a prediction that lies here by half and matches nothing.

    Returns:
        One verdict for each prediction, then one for each true object that none of them has found.
    """
    ious = compute_ious(masks, true_masks)
    free, verdicts = set(range(len(true_masks))), []
    matches = [_match(iou * (true_labels == label), free) for iou, label in zip(ious, labels)]
    for mask, name, iou, match in zip(masks, names, ious, matches):
        if match is not None:
            verdicts.append(Verdict(RIGHT, mask, name))
            continue
        if np.count_nonzero(mask & ignored) * 2 >= max(np.count_nonzero(mask), 1):
            continue
        other = _match(iou, free)
        verdicts.append(Verdict(WRONG, mask, name if other is None else f'{name}, not {true_names[other]}', other is not None))
    return verdicts + [Verdict(MISSED, true_masks[number], true_names[number]) for number in sorted(free)]


def describe_verdicts(verdicts: Sequence[Verdict]) -> str:
    """How many true objects were found, and what is wrong, in words."""
    right = sum(verdict.kind == RIGHT for verdict in verdicts)
    missed = sum(verdict.kind == MISSED for verdict in verdicts)
    confused = sum(verdict.confused for verdict in verdicts)
    false = sum(verdict.kind == WRONG for verdict in verdicts) - confused
    parts = [f'{right} of {right + missed + confused} right']
    parts += [f'{count} {what}' for count, what in ((confused, 'confused'), (missed, 'missed'), (false, 'false')) if count]
    return ', '.join(parts)


def compute_ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of each of n masks (n, H, W) with each of m (m, H, W): (n, m)."""
    boxes = [[cv2.boundingRect(mask.astype(np.uint8)) for mask in masks] for masks in (first, second)]
    areas = [[np.count_nonzero(mask) for mask in masks] for masks in (first, second)]
    ious = np.zeros((len(first), len(second)))
    for i, (x, y, width, height) in enumerate(boxes[0]):
        for j, (left, top, wide, high) in enumerate(boxes[1]):
            rows = slice(max(y, top), min(y + height, top + high))
            columns = slice(max(x, left), min(x + width, left + wide))
            if rows.start < rows.stop and columns.start < columns.stop:
                common = np.count_nonzero(first[i, rows, columns] & second[j, rows, columns])
                ious[i, j] = common / (areas[0][i] + areas[1][j] - common)
    return ious


def split_segments(segments: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks (n, H, W) and classes (n,) of the segments of a map of ``count`` classes (H, W)."""
    values = np.unique(segments[_is_known(segments, count)])
    return segments == values[:, None, None], values % INSTANCE_OFFSET


def _is_known(segments: np.ndarray, count: int) -> np.ndarray:
    return (segments >= 0) & (segments % INSTANCE_OFFSET < count)


def _match(ious: np.ndarray, free: set[int]) -> int | None:
    """Take the free one with the highest IoU, if that is high enough."""
    best = max(free, key=lambda number: ious[number], default=None)
    if best is None or ious[best] < MIN_IOU:
        return None
    free.remove(best)
    return best


def _read_masks(objects: Any, shape: Size) -> np.ndarray:
    """The masks (n, H, W) of objects; their boxes if they have none."""
    masks = find_masks(objects, shape)
    if masks is not None:
        return masks
    boxes = to_array(objects.bboxes) if 'bboxes' in objects else np.zeros((0, 4))
    masks = np.zeros((len(boxes), *shape), bool)
    for mask, box in zip(masks, boxes):
        left, top, right, bottom = np.maximum(box[:4].round().astype(int), 0)
        mask[top:bottom, left:right] = True
    return masks


def _draw_pixels(image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, count: int,
                 size: Size | None) -> tuple[np.ndarray, str]:
    known = _is_known(truth, count) & (truth < count)
    right = known & (truth == predicted)
    picture = _make_background(image, size)
    for kind, mask in ((RIGHT, right), (WRONG, known & ~right), (IGNORED, ~known)):
        _tint(picture, mask, kind)
    share = np.count_nonzero(right) / max(np.count_nonzero(known), 1)
    return picture, f'{share:.1%} of the pixels right'


def _draw_verdicts(image: np.ndarray, verdicts: Sequence[Verdict], ignored: np.ndarray, inside: bool,
                   size: Size | None) -> np.ndarray:
    """``inside``: where names go, on segments or above objects."""
    picture = _make_background(image, size)
    _tint(picture, ignored, IGNORED)
    for verdict in verdicts:
        _tint(picture, verdict.mask, verdict.kind)
    for verdict in verdicts:
        _outline(picture, verdict)
    canvas = Image.fromarray(picture)
    labeller = Labeller(canvas.size, choose_font(picture))
    scale = picture.shape[0] / image.shape[0]
    for verdict in sorted(verdicts, key=lambda each: each.kind == RIGHT):  # mistakes take the best places
        color = COLORS[MISSED] if verdict.kind == MISSED else WHITE
        if inside:
            x, y = (scale * edge for edge in next(find_places(verdict.mask), (0, 0)))
            labeller.add_at(x, y, verdict.text, color)
        else:
            x, y, width, height = (scale * edge for edge in cv2.boundingRect(verdict.mask.astype(np.uint8)))
            labeller.add_to_box((x, y, x + width, y + height), verdict.text, color)
    return labeller.write(canvas)


def _make_background(image: np.ndarray, size: Size | None) -> np.ndarray:
    """The image in grey."""
    return cv2.cvtColor(cv2.cvtColor(enlarge(image, size), cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _enlarge_mask(picture: np.ndarray, mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Left and top edge in a picture of the box around a mask (H, W), and what is in it at the picture's size, uint8."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    factors = np.array([picture.shape[1] / mask.shape[1], picture.shape[0] / mask.shape[0]] * 2)
    x1, y1, x2, y2 = (factors * (left, top, left + width, top + height)).round().astype(int)
    inside = mask[top:top + height, left:left + width].astype(np.uint8)
    return x1, y1, cv2.resize(inside, (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST) if inside.size else inside


def _tint(picture: np.ndarray, mask: np.ndarray, kind: str) -> None:
    """Mix the colour of a verdict into a part of a picture, in place."""
    left, top, inside = _enlarge_mask(picture, mask)
    if inside.size:
        part = picture[top:top + inside.shape[0], left:left + inside.shape[1]]
        mixed = np.ascontiguousarray(part)
        layer = np.full(part.shape, COLORS[kind], np.uint8)
        cv2.copyTo(cv2.addWeighted(mixed, 1 - OPACITIES[kind], layer, OPACITIES[kind], 0), inside, mixed)
        part[:] = mixed


def _outline(picture: np.ndarray, verdict: Verdict) -> None:
    """Draw the edge of a mask, dashed if it was missed, in place."""
    left, top, inside = _enlarge_mask(picture, verdict.mask)
    contours, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(left, top)) if inside.size else ((),
                                                                                                                              0)
    for contour in contours:
        for start, stop in _list_dashes(len(contour)) if verdict.kind == MISSED else [(0, len(contour))]:
            cv2.polylines(picture, [contour[start:stop]], verdict.kind != MISSED, COLORS[verdict.kind], 2)


def _list_dashes(length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, 2 * DASH):
        yield start, min(start + DASH, length)
