"""Rendered letters and shapes, on which the mini backbones were pre-trained by classification; no digits are among them.

The order in which random numbers are drawn is part of the data: changing it changes every image.
"""
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from mmparax.datasets.synthetic.surfaces import choose_contrasting_color, finish_photo, make_rotated_grid, make_smooth_noise
from mmparax.errors import check_int

LETTERS = tuple('ABCDEFGHIJKLMNOPQRSTUVWXYZabdeghnqrt')
SHAPES = ('disc', 'ring', 'triangle', 'square', 'pentagon', 'star', 'cross', 'arrow', 'crescent', 'heart', 'half disc',
          'lightning')
GLYPH_CLASSES = tuple(f'letter {letter}' for letter in LETTERS) + SHAPES
MIN_SIDE = 32

_BOX = 64  # side of the prepared masks in pixels; the glyph spans _SPAN of them
_SPAN = 52
_REFERENCE_SIDE = 64  # lengths below are in pixels of an image with this side
_FONTS = ('DejaVuSans', 'DejaVuSans-Bold', 'DejaVuSans-Oblique', 'DejaVuSerif', 'DejaVuSerif-Bold', 'DejaVuSerif-Italic',
          'DejaVuSansMono', 'DejaVuSansMono-Bold', 'STIXGeneral', 'STIXGeneralBol', 'cmss10')
# Their hollow form is (nearly) another class.
_NEVER_HOLLOW = ('disc', 'ring')


class GlyphGenerator:
    """Draws one letter or shape in each image; an image depends on (seed, index, size) only.

    Args:
        seed: non-negative.
        size: height and width of the images in pixels, at least 32.

    Raises:
        ParameterError: if an argument is out of range.
    """

    def __init__(self, seed: int = 0, size: int = 64):
        check_int('seed', seed, 0)
        check_int('size', size, MIN_SIDE)
        self.seed, self.size = seed, size
        self.unit = size / _REFERENCE_SIDE

    def sample(self, index: int) -> tuple[np.ndarray, int]:
        """Draw one image.

        Args:
            index: non-negative number of the image.

        Returns:
            The image, (size, size, 3) uint8, RGB, and the index of its class in ``GLYPH_CLASSES``.
        """
        check_int('index', index, 0)
        rng = np.random.default_rng([self.seed, index])
        label = int(rng.integers(len(GLYPH_CLASSES)))
        canvas = _draw_background(rng, self.size, self.unit)
        _add_clutter(rng, canvas, int(rng.integers(0, 7)), self.unit)
        alpha = _place_mask(rng, _vary_stroke(rng, label), self.size)[..., None]
        color = choose_contrasting_color(rng, canvas[alpha[..., 0] > 0])
        canvas += alpha * (color - canvas)
        _add_clutter(rng, canvas, int(rng.integers(0, 3)), self.unit)
        return finish_photo(rng, canvas), label


@cache
def _draw_masks(label: int) -> list[np.ndarray]:
    """All masks of a class, each (64, 64) uint8, 0..255: one for each font, or one for a shape."""
    if label >= len(LETTERS):
        return [_draw_shape(SHAPES[label - len(LETTERS)])]
    return [_draw_letter(LETTERS[label], font) for font in _FONTS]


def _draw_letter(letter: str, font: str) -> np.ndarray:
    """A letter scaled so that its longer side spans the box: (64, 64) uint8."""
    path = Path(matplotlib.get_data_path()) / 'fonts' / 'ttf' / f'{font}.ttf'
    big = Image.new('L', (400, 400))
    ImageDraw.Draw(big).text((100, 60), letter, fill=255, font=ImageFont.truetype(str(path), 200))
    left, top, right, bottom = big.getbbox()
    scale = _SPAN / max(right - left, bottom - top)
    fitted = big.crop((left, top, right, bottom)).resize((max(1, round(
        (right - left) * scale)), max(1, round((bottom - top) * scale))), Image.LANCZOS)
    box = Image.new('L', (_BOX, _BOX))
    box.paste(fitted, ((_BOX - fitted.width) // 2, (_BOX - fitted.height) // 2))
    return np.asarray(box)


def _draw_shape(name: str) -> np.ndarray:
    """A filled shape, drawn four times too large and reduced for a smooth edge: (64, 64) uint8."""
    side = 4 * _BOX
    mask = np.zeros((side, side), np.uint8)
    radius = 2 * _SPAN

    def fill(points: ArrayLike, value: int = 255) -> None:
        cv2.fillPoly(mask, [np.round(side / 2 + radius * np.asarray(points)).astype(np.int32)], value)

    fill(_make_outline(name))
    if name == 'ring':
        fill(0.55 * _make_arc(0, 2 * np.pi), 0)
    elif name == 'crescent':
        fill(0.85 * _make_arc(0, 2 * np.pi) + (0.45, 0), 0)
    return cv2.resize(mask, (_BOX, _BOX), interpolation=cv2.INTER_AREA)


def _make_arc(start: float, end: float, points: int = 64) -> np.ndarray:
    """Points on the unit circle between two angles in radians: (points, 2), x and y."""
    angles = np.linspace(start, end, points)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _make_outline(name: str) -> ArrayLike:
    """Corners of a shape within -1..1, y pointing down: (N, 2), x and y."""
    polygons = dict(
        square=[(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8),
                (-0.8, 0.8)], cross=[(-.28, -1), (.28, -1), (.28, -.28), (1, -.28), (1, .28), (.28, .28), (.28, 1), (-.28, 1),
                                     (-.28, .28), (-1, .28), (-1, -.28), (-.28, -.28)], arrow=[(-1, -.25), (.1, -.25), (.1, -.75),
                                                                                               (1, 0), (.1, .75), (.1, .25),
                                                                                               (-1, .25)], lightning=[(.1, -1),
                                                                                                                      (-.65, .15),
                                                                                                                      (-.1, .15),
                                                                                                                      (-.3, 1),
                                                                                                                      (.6, -.25),
                                                                                                                      (.05, -.25),
                                                                                                                      (.5, -1)])
    if name in polygons:
        return polygons[name]
    if name in ('triangle', 'pentagon'):
        corners = 3 if name == 'triangle' else 5
        return _make_arc(-np.pi / 2, 1.5 * np.pi, corners + 1)
    if name == 'star':
        return _make_arc(-np.pi / 2, 1.5 * np.pi, 11) * np.where(np.arange(11) % 2, 0.42, 1)[:, None]
    if name == 'heart':
        t = np.linspace(0, 2 * np.pi, 96)
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return np.stack([16 * np.sin(t)**3, -y], 1) / 17
    if name == 'half disc':
        return _make_arc(-np.pi, 0) + (0, 0.5)
    return _make_arc(0, 2 * np.pi)


def _vary_stroke(rng: np.random.Generator, label: int) -> np.ndarray:
    """A mask of the class in a random font, thinner, thicker or hollow: (64, 64) uint8."""
    masks = _draw_masks(label)
    mask = masks[rng.integers(len(masks))]
    style = rng.random()
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    if style < 0.25 and GLYPH_CLASSES[label] not in _NEVER_HOLLOW:
        steps = int(rng.integers(2, 4))
        return cv2.dilate(mask, kernel) - cv2.erode(mask, kernel, iterations=steps)
    return cv2.dilate(mask, kernel, iterations=int(rng.integers(0, 3)))


def _place_mask(rng: np.random.Generator, mask: np.ndarray, size: int) -> np.ndarray:
    """Scale, turn, stretch and shift a mask onto an image: (size, size) float32 alpha."""
    span = rng.uniform(0.42, 0.9) * size
    scale, stretch = span / _SPAN, rng.uniform(0.85, 1.15)
    angle = np.deg2rad(rng.uniform(-30, 30))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([scale * stretch, scale / stretch])
    room = (size - span) / 2
    center = size / 2 + rng.uniform(-room, room, 2)
    shift = center - matrix @ np.full(2, _BOX / 2)
    alpha = cv2.warpAffine(mask, np.column_stack([matrix, shift]), (size, size), flags=cv2.INTER_LINEAR)
    return alpha.astype(np.float32) / 255


def _draw_background(rng: np.random.Generator, size: int, unit: float) -> np.ndarray:
    """A background of one of six kinds, none of them a surface of the scenes: (size, size, 3) float32, RGB in 0..1."""
    kind = (_shade_gradient, _shade_noise, _shade_stripes, _shade_checker, _shade_dots, _shade_blotches)[rng.integers(6)]
    shade = np.clip(kind(rng, *make_rotated_grid(rng, (size, size), unit)), 0, 1)[..., None]
    low = rng.uniform(0, 1, 3).astype(np.float32)
    low += rng.uniform(0, 1) * (low.mean() - low)  # most are greyish, as photographs are
    high = np.clip(low + rng.uniform(-0.5, 0.5, 3), 0, 1).astype(np.float32)
    return low + shade * (high - low)


# Each background takes coordinates (H, W) of a rotated grid and returns shades (H, W).


def _shade_gradient(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u - u.min()) / (u.max() - u.min())


def _shade_noise(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    length = rng.uniform(4, 30)
    layers = [make_smooth_noise(rng, u, v, length / 2**octave, length / 2**octave) / 2**octave for octave in range(3)]
    return sum(layers) / 1.75


def _shade_stripes(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    period, softness = rng.uniform(5, 20), rng.uniform(0.6, 6)
    return 0.5 + softness * np.sin(2 * np.pi * u / period) / 2


def _shade_checker(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    cell = rng.uniform(4, 14)
    return ((np.floor(u / cell) + np.floor(v / cell)) % 2).astype(np.float32)


def _shade_dots(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    cell = rng.uniform(6, 16)
    return (np.hypot(u % cell - cell / 2, v % cell - cell / 2) < cell * rng.uniform(0.2, 0.4)).astype(np.float32)


def _shade_blotches(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    length = rng.uniform(6, 20)
    return np.clip(8 * (make_smooth_noise(rng, u, v, length, length) - 0.5) + 0.5, 0, 1)


def _add_clutter(rng: np.random.Generator, canvas: np.ndarray, count: int, unit: float) -> None:
    """Draw small random lines and dots into the canvas."""
    for _ in range(count):
        start = rng.uniform(0, len(canvas), 2)
        end = start + rng.normal(0, 7 * unit, 2)
        color = rng.uniform(0, 1, 3).tolist()
        thickness = max(1, round(rng.uniform(0.6, 2.2) * unit))
        first, last = np.round(start).astype(int).tolist(), np.round(end).astype(int).tolist()
        if rng.random() < 0.6:
            cv2.line(canvas, first, last, color, thickness)
        else:
            cv2.circle(canvas, first, thickness, color, -1)
