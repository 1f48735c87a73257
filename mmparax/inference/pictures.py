"""Pictures of predictions beside the ground truth, for every task."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

SCALE = 3  # objects are drawn on an enlarged image, so that their names can be read
Palette = Sequence[Sequence[int]]


def colorize(labels: np.ndarray, palette: Palette) -> np.ndarray:
    """Colour a class map (H, W); classes outside the palette become black. Returns (H, W, 3) uint8."""
    colors = np.vstack([np.asarray(palette, np.uint8), np.zeros((1, 3), np.uint8)])
    return colors[np.where((labels >= 0) & (labels < len(palette)), labels, len(palette))]


def outline(picture: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Draw black lines between segments.

    Args:
        picture: (H, W, 3) uint8.
        segments: (H, W), a number for each segment.

    Returns:
        np.ndarray: ``SCALE`` times as large.
    """
    picture, segments = (array.repeat(SCALE, 0).repeat(SCALE, 1) for array in (picture, segments))
    edges = np.zeros(segments.shape, bool)
    edges[1:] |= segments[1:] != segments[:-1]
    edges[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    return np.where(edges[..., None], np.uint8(0), picture)


def draw_objects(image: np.ndarray, masks: np.ndarray, boxes: np.ndarray, colors: Palette, texts: Sequence[str]) -> np.ndarray:
    """Draw objects with mask, box and text on a darkened image.

    Args:
        image: (H, W, 3) uint8.
        masks: (n, H, W) bool.
        boxes: (n, 4), left, top, right, bottom in pixels.
        colors: RGB of each object.
        texts: what to write at each box.

    Returns:
        np.ndarray: uint8, ``SCALE`` times as large.
    """
    picture = image // 3
    for mask, color in zip(masks, colors):
        picture[mask] = (0.35 * image[mask] + 0.65 * np.asarray(color)).astype(np.uint8)
    canvas = Image.fromarray(picture.repeat(SCALE, 0).repeat(SCALE, 1))
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(str(Path(get_data_path()) / 'fonts' / 'ttf' / 'DejaVuSans-Bold.ttf'), 18)
    for box, color, text in zip(boxes, colors, texts):
        left, top, right, bottom = (float(edge) * SCALE for edge in box)
        pen.rectangle([left, top, max(right - 1, left), max(bottom - 1, top)], outline=tuple(color), width=3)
        corner = (min(max(left, 0), canvas.width - pen.textlength(text, font)), max(top - 22, 0))
        pen.rectangle(pen.textbbox(corner, text, font), fill=(0, 0, 0))
        pen.text(corner, text, fill=(255, 255, 255), font=font)
    return np.asarray(canvas)
