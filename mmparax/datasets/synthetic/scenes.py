"""Synthetic scenes: real handwritten digits (things) on textured surfaces (stuff), with exact ground truth.

The order in which random numbers are drawn is part of the data: changing it changes every scene.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from sklearn.datasets import load_digits

from mmparax.datasets.synthetic.surfaces import choose_contrasting_color, draw_layout, draw_surfaces, finish_photo
from mmparax.errors import ParameterError, check_choice, check_int
from mmparax.utils.choices import MIN_SCENE_SIDE

Box = tuple[int, int, int, int]  # (x1, y1, x2, y2) in pixels, x2 and y2 exclusive

THING_CLASSES = tuple(f'digit {digit}' for digit in range(10))
STUFF_CLASSES = ('wood', 'brick', 'grass', 'water', 'sand')
CLASSES = THING_CLASSES + STUFF_CLASSES
PALETTE = ((230, 25, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230),
           (170, 110, 255), (250, 190, 212), (255, 255, 255), (120, 72, 24), (128, 0, 0), (20, 110, 40), (0, 0, 128), (190, 175,
                                                                                                                       120))
SPLITS = ('train', 'val')
MIN_CROP = 24  # side of the smallest crop in pixels

_REFERENCE_SIDE = 128  # lengths below are in pixels of a canvas whose shorter side has this many
_VAL_SHARE = 497 / 1797
_MIN_FRAGMENT = 12  # pixels (reference canvas): smaller separate pieces of a digit are not allowed
_MIN_VISIBLE = 0.75  # share of a digit that later ones must leave
_MAX_COVER = 0.15  # share of a digit that may lie on earlier ones
_INK = 0.5  # ink level (0..1) of the digit's outline
_CELL = 5  # the digits are kept enlarged by this factor
_CROP_MARGIN = 0.15  # share of a digit's longer side that a crop shows on each side of it
_MAX_SURFACE_CROP = 64  # pixels (reference canvas)


@dataclass
class Instance:
    """One digit of a scene.

    Attributes:
        label: class index, 0..9 (the digit itself).
        mask: (H, W) bool, the visible part.
        bbox: box of the visible part in pixels, (x1, y1, x2, y2), x2 and y2 exclusive.
        sample: index of the handwritten sample in scikit-learn's ``load_digits``.
    """
    label: int
    mask: np.ndarray
    bbox: Box
    sample: int


@dataclass
class Scene:
    """An image with its ground truth.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        stuff: (H, W) uint8, index into ``STUFF_CLASSES``, also below the digits.
        instances: digits in the order in which they were drawn; their masks do not overlap.
    """
    image: np.ndarray
    stuff: np.ndarray
    instances: list[Instance]

    def build_semantic_map(self) -> np.ndarray:
        """The class of every pixel: (H, W) uint8, index into ``CLASSES`` (0..14)."""
        classes = self.stuff + np.uint8(len(THING_CLASSES))
        for instance in self.instances:
            classes[instance.mask] = instance.label
        return classes

    def build_panoptic_map(self) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """The segment of every pixel: one segment for each visible surface class and one for each digit, with ids from 1.

        Returns:
            (H, W) int32 segment ids, and for each segment ``id``, ``category_id`` (index into ``CLASSES``), ``isthing``
            (0 or 1), ``area`` (pixels) and ``bbox`` ([x, y, w, h], pixels).
        """
        semantic = self.build_semantic_map()
        stuff_ids = [index for index in np.unique(semantic).tolist() if index >= len(THING_CLASSES)]
        segments = [(index, 0, semantic == index) for index in stuff_ids]
        segments += [(instance.label, 1, instance.mask) for instance in self.instances]
        ids, infos = np.zeros(semantic.shape, np.int32), []
        for segment_id, (category, isthing, mask) in enumerate(segments, 1):
            ids[mask] = segment_id
            x1, y1, x2, y2 = mask_to_bbox(mask)
            infos.append(
                dict(id=segment_id, category_id=category, isthing=isthing, area=int(mask.sum()), bbox=[x1, y1, x2 - x1, y2 - y1]))
        return ids, infos

    def find_crops(self) -> list[tuple[int, Box]]:
        """Square windows for classification: one on each digit, and one on each surface that has room for it.

        The window of a digit has a margin around its visible part and lies inside the image. That of a surface is the
        largest one on pixels of this surface only, at most half of the image's shorter side.

        Returns:
            Index into ``CLASSES`` and (x1, y1, x2, y2) in pixels, x2 and y2 exclusive, of at least ``MIN_CROP`` pixels a
            side; first the digits, in the order of ``instances``.
        """
        semantic = self.build_semantic_map()
        windows = [(instance.label, _find_digit_window(instance.bbox, semantic.shape)) for instance in self.instances]
        for index in np.unique(semantic[semantic >= len(THING_CLASSES)]).tolist():
            window = _find_free_window(semantic == index)
            if window is not None:
                windows.append((index, window))
        return windows


class SceneGenerator:
    """Generates scenes; a scene depends on (seed, split, index, size) only, not on the order of calls.

    Args:
        split: ``'train'`` or ``'val'``. The two use disjoint handwritten samples, whatever the seed.
        seed: non-negative.
        size: (H, W) in pixels, each at least 64.

    Raises:
        ParameterError: if an argument is out of range.
    """

    def __init__(self, split: str = 'train', seed: int = 0, size: Sequence[int] = (128, 128)):
        check_choice('split', split, SPLITS)
        check_int('seed', seed, 0)
        self.split, self.seed, self.size = split, seed, _check_size(size)
        self.unit = min(self.size) / _REFERENCE_SIDE
        self._pools = select_samples(split)

    def generate(self, index: int) -> Scene:
        """Generate one scene.

        Args:
            index: non-negative number of the scene.

        Returns:
            The image and its ground truth.
        """
        check_int('index', index, 0)
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        stuff = draw_layout(rng, self.size, self.unit, len(STUFF_CLASSES))
        canvas = draw_surfaces(rng, stuff, STUFF_CLASSES, self.unit)
        instances: list[Instance] = []
        areas: list[int] = []
        wanted = rng.integers(2, 6)
        for _ in range(100):  # proposals that hide too much of another digit are dropped
            self._add_digit(rng, canvas, instances, areas)
            if len(instances) == wanted:
                break
        for instance in instances:
            instance.bbox = mask_to_bbox(instance.mask)
        return Scene(finish_photo(rng, canvas), stuff, instances)

    def _add_digit(self, rng: np.random.Generator, canvas: np.ndarray, instances: list[Instance], areas: list[int]) -> None:
        """Propose one digit; if it fits, draw it and extend ``instances`` and their unhidden ``areas`` (pixels)."""
        label = int(rng.integers(10))
        sample = int(rng.choice(self._pools[label]))
        alpha, mask = _place_digit(rng, _load_digit_bank()[sample], self.size, self.unit)
        rests = [instance.mask & ~mask for instance in instances]
        covered = sum(instance.mask.sum() for instance in instances) - sum(rest.sum() for rest in rests)
        if covered > _MAX_COVER * mask.sum() or not _fits(mask, rests, areas, self.unit):
            return
        x1, y1, x2, y2 = mask_to_bbox(alpha > 0)
        window, alpha = canvas[y1:y2, x1:x2], alpha[y1:y2, x1:x2, None]
        color = choose_contrasting_color(rng, window.reshape(-1, 3))
        shade = 1 + rng.uniform(-0.2, 0.2) * np.linspace(-1, 1, y2 - y1, dtype=np.float32)[:, None, None]
        window += alpha * (np.clip(color * shade, 0, 1) - window)
        for instance, rest in zip(instances, rests):
            instance.mask = rest
        instances.append(Instance(label, mask, mask_to_bbox(mask), sample))
        areas.append(mask.sum())


def select_samples(split: str) -> list[np.ndarray]:
    """Handwritten samples of a split: a fixed stratified division, the same for every seed.

    Args:
        split: ``'train'`` or ``'val'``.

    Returns:
        For each digit 0..9, sorted indices into ``load_digits``.
    """
    rng = np.random.default_rng(1797)
    pools = []
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(load_digits_once().target == digit))
        num_val = round(len(members) * _VAL_SHARE)
        pools.append(np.sort(members[:num_val] if split == 'val' else members[num_val:]))
    return pools


@lru_cache(maxsize=1)
def load_digits_once() -> Any:
    """scikit-learn's digits (1797 grey images of 8x8), read once per process."""
    return load_digits()


@lru_cache(maxsize=1)
def _load_digit_bank() -> np.ndarray:
    """The digits with a border of one cell, smoothly enlarged: (1797, 50, 50) float32, ink 0..1."""
    padded = np.pad(load_digits_once().images / 16, ((0, 0), (1, 1), (1, 1))).astype(np.float32)
    side = padded.shape[1] * _CELL
    bank = np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) for image in padded])
    return np.clip(bank, 0, 1)


def _place_digit(rng: np.random.Generator, ink: np.ndarray, size: tuple[int, int], unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Warp a digit onto an empty canvas of ``size`` (H, W); return alpha (H, W) float32 and mask (H, W) bool."""
    side = rng.uniform(28, 64) * unit
    center = [rng.uniform(side / 2, length - side / 2) for length in (size[1], size[0])]
    scale = side / (8 * _CELL)
    stretch = rng.uniform(0.85, 1.15)
    angle = np.deg2rad(rng.uniform(-30, 30))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([scale * stretch, scale / stretch])
    shift = np.array(center) - matrix @ np.full(2, (ink.shape[0] - 1) / 2)
    ink = cv2.warpAffine(ink, np.column_stack([matrix, shift]), size[::-1], flags=cv2.INTER_LINEAR)
    # Ink falls from 1 to 0 within about one cell; the factor narrows that edge to between one and two pixels.
    return np.clip((ink - _INK) * max(1, side / 12) + 0.5, 0, 1) * (ink > 0), ink >= _INK


def _fits(mask: np.ndarray, rests: Sequence[np.ndarray], areas: Sequence[int], unit: float) -> bool:
    """Whether a new digit lies inside the canvas and leaves enough of the digits below it."""
    if mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any():
        return False
    if any(rest.sum() < _MIN_VISIBLE * area for rest, area in zip(rests, areas)):
        return False
    return all(_measure_smallest_piece(part) >= _MIN_FRAGMENT * unit**2 for part in [mask, *rests])


def _measure_smallest_piece(mask: np.ndarray) -> int:
    """Area in pixels of the smallest connected piece of a mask, 0 for an empty one."""
    areas = cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    return areas.min() if len(areas) else 0


def mask_to_bbox(mask: np.ndarray) -> Box:
    """Box around a non-empty mask.

    Args:
        mask: (H, W) bool.

    Returns:
        (x1, y1, x2, y2) in pixels, x2 and y2 exclusive.
    """
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _find_digit_window(bbox: Box, size: tuple[int, int]) -> Box:
    """Square around a box with a margin, moved into a canvas of ``size`` (H, W) where it would go over its border."""
    x1, y1, x2, y2 = bbox
    side = min(max(round((1 + 2 * _CROP_MARGIN) * max(x2 - x1, y2 - y1)), MIN_CROP), *size)
    left = min(max((x1 + x2 - side) // 2, 0), size[1] - side)
    top = min(max((y1 + y2 - side) // 2, 0), size[0] - side)
    return left, top, left + side, top + side


def _find_free_window(mask: np.ndarray) -> Box | None:
    """Largest square (of odd side, up to a limit) that a mask (H, W) fills; None if it is below ``MIN_CROP``."""
    # In the chessboard metric the distance to the nearest pixel outside is the radius of a square, the centre included.
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_C, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(distance.argmax(), mask.shape)
    side = min(2 * int(distance[y, x]) - 1, round(_MAX_SURFACE_CROP * min(mask.shape) / _REFERENCE_SIDE))
    if side < MIN_CROP:
        return None
    left, top = int(x) - side // 2, int(y) - side // 2
    return left, top, left + side, top + side


def _check_size(size: Any) -> tuple[int, int]:
    """Return ``size`` as two plain integers of at least ``MIN_SCENE_SIDE``, else raise ParameterError."""
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ParameterError('size', size, f'it must be (height, width), two integers of at least {MIN_SCENE_SIDE}')
    for side in size:
        check_int('size', side, MIN_SCENE_SIDE)
    return int(size[0]), int(size[1])
