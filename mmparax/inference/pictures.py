"""Pictures of predictions beside the ground truth, for every task."""
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import get_data_path
from matplotlib.figure import Figure
from matplotlib.patches import Patch
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


def draw_prediction_sheet(path: Path, rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], classes: Sequence[str],
                          palette: Palette, title: str) -> None:
    """Draw a sheet with input, ground truth and prediction side by side, two scenes a line, and a legend.

    Args:
        path: PNG file to write.
        rows: for each scene three pictures (H, W, 3) uint8: the image, the ground truth and the prediction.
        classes: names of the classes.
        palette: RGB of each class.
        title: heading.
    """
    lines = -(-len(rows) // 2)
    figure = Figure(figsize=(13, 2.25 * lines + 1.3))
    axes = figure.subplots(lines, 7, squeeze=False, gridspec_kw=dict(width_ratios=[1, 1, 1, 0.12, 1, 1, 1]))
    for axis in axes.flat:
        axis.axis('off')
    for number, pictures in enumerate(rows):
        line, column = divmod(number, 2)
        for offset, (picture, label) in enumerate(zip(pictures, ('input', 'ground truth', 'prediction'))):
            axis = axes[line, 4 * column + offset]
            axis.imshow(picture, interpolation='nearest')
            if line == 0:
                axis.set_title(label, fontsize=12)
    patches = [Patch(facecolor=np.array(color) / 255, edgecolor='black', linewidth=0.5) for color in palette]
    figure.suptitle(title, fontsize=14)
    figure.legend(patches, classes, loc='lower center', ncol=8, fontsize=10, frameon=False)
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.85 / figure.get_figheight(), bottom=0.75 / figure.get_figheight(),
                           wspace=0.04, hspace=0.06)
    figure.savefig(path, dpi=100)


def draw_label_sheet(path: Path, images: Sequence[np.ndarray], truths: Sequence[str], predictions: Sequence[str],
                     scores: Sequence[float] | None, title: str, columns: int = 8) -> None:
    """Draw a sheet of images, each with its predicted class: green if right, else red with the true one.

    Args:
        path: PNG file to write.
        images: each (H, W, 3) uint8.
        truths, predictions: class names.
        scores: of the predictions.
        title: heading.
        columns: images a line.
    """
    lines = -(-len(images) // columns)
    figure = Figure(figsize=(1.65 * columns, 2.1 * lines + 0.7))
    axes: list = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axis in axes:
        axis.axis('off')
    for number, (axis, image, truth, prediction) in enumerate(zip(axes, images, truths, predictions)):
        axis.imshow(image, interpolation='nearest')
        right = truth == prediction
        text = prediction + (f' ({scores[number]:.0%})' if scores is not None else '')
        axis.set_title(text if right else f'{text}\nis {truth}', fontsize=10, color='darkgreen' if right else 'crimson')
    figure.suptitle(title, fontsize=14)
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.95 / figure.get_figheight(), bottom=0.01, wspace=0.08, hspace=0.42)
    figure.savefig(path, dpi=100)
