"""Places names on a picture so that none covers another, as long as there is room."""
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom in pixels
STROKE = 2  # pixels of the dark edge around letters
# Steps from a name's own place to others, the nearest first: in halves of its width and in its height.
NEIGHBOURS = sorted(((x, y) for x in range(-4, 5) for y in range(-4, 5)), key=lambda step: abs(step[0]) + abs(step[1]))
WHITE: Color = (255, 255, 255)


class Labeller:
    """Collects names, the most important first, and writes them; each takes the first of its places that is free.

    Args:
        size: (width, height) of the picture in pixels.
        font: of Pillow.
    """

    def __init__(self, size: tuple[int, int], font: Any):
        self.width, self.height, self.font = *size, font
        self.names: list[tuple[Rectangle, str, Color]] = []

    def add_to_box(self, box: Sequence[float], text: str, color: Color = WHITE) -> None:
        """Add the name of a box (left, top, right, bottom): above it, else below it or inside."""
        left, top, right, bottom = (float(edge) for edge in box)
        width, height = self._measure(text)
        places = [(x, y) for y in (top - height, bottom, top, bottom - height)
                  for x in (left, right - width, left - width, right)]
        self._add([(x, y, x + width, y + height) for x, y in places], text, color)

    def add_at(self, x: float, y: float, text: str, color: Color = WHITE) -> None:
        """Add a name with its middle at a point, or near it."""
        width, height = self._measure(text)
        steps = [(0, 0), (0, -1), (0, 1), (-0.6, 0), (0.6, 0), (0, -2), (0, 2), (-0.6, -1), (0.6, -1), (-0.6, 1), (0.6, 1)]
        places = [(x + (right - 0.5) * width, y + (down - 0.5) * height) for right, down in steps]
        self._add([(left, top, left + width, top + height) for left, top in places], text, color)

    def write(self, canvas: Image.Image) -> np.ndarray:
        """Write the names on a picture; returns it, (H, W, 3) uint8."""
        pen = ImageDraw.Draw(canvas)
        for (left, top, right, bottom), text, color in self.names:
            pen.text(((left + right) / 2, (top + bottom) / 2), text, fill=color, font=self.font, anchor='mm', stroke_width=STROKE,
                     stroke_fill=(0, 0, 0))
        return np.asarray(canvas)

    def _measure(self, text: str) -> tuple[float, float]:
        return self.font.getlength(text) + 2 * STROKE, self.font.size * 1.15 + STROKE

    def _add(self, places: Sequence[Rectangle], text: str, color: Color) -> None:
        left, top, right, bottom = places[0]
        around = [(left + x * (right - left) / 2, top + y * (bottom - top)) for x, y in NEIGHBOURS]
        places = [*places, *((x, y, x + right - left, y + bottom - top) for x, y in around)]
        inside = [self._move_inside(place) for place in places]
        taken = [name[0] for name in self.names]
        best = min(inside, key=lambda place: sum(_overlap(place, other) for other in taken))  # the first of equally good ones
        self.names.append((best, text, color))

    def _move_inside(self, place: Rectangle) -> Rectangle:
        left, top, right, bottom = place
        right_shift = max(0, -left) - max(0, right - self.width)
        down_shift = max(0, -top) - max(0, bottom - self.height)
        return left + right_shift, top + down_shift, right + right_shift, bottom + down_shift


def _overlap(first: Rectangle, second: Rectangle) -> float:
    """Common area of two rectangles."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)
