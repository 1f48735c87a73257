"""Pictures of predictions."""
from pathlib import Path
from typing import Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch


def colorize(labels: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Colour a class map (H, W); classes outside the palette become black. Returns (H, W, 3) uint8."""
    colors = np.vstack([np.asarray(palette, np.uint8), np.zeros((1, 3), np.uint8)])
    return colors[np.where((labels >= 0) & (labels < len(palette)), labels, len(palette))]


def prediction_sheet(path: Path, rows: Sequence[Tuple[np.ndarray, np.ndarray, np.ndarray]], classes: Sequence[str],
                     palette: Sequence[Sequence[int]], title: str) -> None:
    """Write a sheet with input, ground truth and prediction side by side, two scenes a line, and a legend.

    Args:
        path: PNG file to write.
        rows: for each scene the image (H, W, 3) uint8, the true and the predicted class map (H, W).
        classes: names of the classes.
        palette: RGB of each class.
        title: heading.
    """
    lines = -(-len(rows) // 2)
    figure = Figure(figsize=(13, 2.25 * lines + 1.3))
    axes = figure.subplots(lines, 7, squeeze=False, gridspec_kw=dict(width_ratios=[1, 1, 1, 0.12, 1, 1, 1]))
    for axis in axes.flat:
        axis.axis('off')
    for number, (image, truth, prediction) in enumerate(rows):
        line, column = divmod(number, 2)
        for offset, (picture, label) in enumerate([(image, 'input'), (colorize(truth, palette), 'ground truth'),
                                                   (colorize(prediction, palette), 'prediction')]):
            axis = axes[line, 4 * column + offset]
            axis.imshow(picture, interpolation='nearest')
            if line == 0:
                axis.set_title(label, fontsize=12)
    patches = [Patch(facecolor=np.array(color) / 255, edgecolor='black', linewidth=0.5) for color in palette]
    figure.suptitle(title, fontsize=14)
    figure.legend(patches, classes, loc='lower center', ncol=8, fontsize=10, frameon=False)
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.85 / figure.get_figheight(),
                           bottom=0.75 / figure.get_figheight(), wspace=0.04, hspace=0.06)
    figure.savefig(path, dpi=100)
