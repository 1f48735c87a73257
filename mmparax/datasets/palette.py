"""Colours of classes that are told apart."""
from functools import cache

import cv2
import numpy as np

# What the two common kinds of colour blindness (no red, no green cones) see of linear RGB: Machado, Oliveira and Fernandes, "A
# physiologically-based model for simulation of color vision deficiency", 2009, Table 1, severity 1.
_BLIND = np.array([[[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
                   [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]])
_BLIND_WEIGHT = 1.5  # they see two dimensions of three: the same distance there is worth more
_STEPS = (0, 36, 73, 109, 146, 182, 219, 255)


def choose_palette(count: int) -> list[list[int]]:
    """RGB of ``count`` classes, at most 256: each is as far as can be from those before it, for every eye.

    More classes leave the first colours as they are.
    """
    return [list(map(int, rgb)) for rgb in _order_colours()[:count]]


def measure_distances(colours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Differences between colours as the eye that tells them apart worst sees them.

    Args:
        colours: (N, 3), RGB from 0 to 255.
        others: (M, 3).

    Returns:
        (N, M), in CIELAB; about 2 is just visible side by side.
    """
    distances = np.sqrt(((_see(colours)[:, :, None] - _see(others)[:, None])**2).sum(-1))
    distances[1:] *= _BLIND_WEIGHT
    return distances.min(0)


def _see(colours: np.ndarray) -> np.ndarray:
    """(3, N, 3) CIELAB of RGB colours: for the usual eye and the two colour-blind ones."""
    encoded = np.asarray(colours) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055)**2.4)
    seen = np.stack([linear, *(linear @ matrix.T for matrix in _BLIND)]).clip(0, 1).astype(np.float32)
    return cv2.cvtColor(seen, cv2.COLOR_LRGB2LAB)


@cache
def _order_colours() -> np.ndarray:
    """(256, 3) of a grid of colours, the farthest from all before it next."""
    grid = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing='ij'), -1).reshape(-1, 3)
    lightness = _see(grid)[0, :, 0]
    grid = grid[(lightness > 38) & (lightness < 95)]  # dark colours hide in dark pictures, and white in bright ones
    chosen = [int(np.argmin(np.abs(grid - (219, 36, 36)).sum(-1)))]
    nearest = np.full(len(grid), np.inf)
    while len(chosen) < 256:
        nearest = np.minimum(nearest, measure_distances(grid, grid[chosen[-1:]])[:, 0])
        chosen.append(int(nearest.argmax()))
    return grid[chosen]
