"""Procedural surfaces of the synthetic scenes, and the noise, colours and effects that the glyphs share.

The order in which random numbers are drawn is part of the data: changing it changes every scene.
"""
import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

Range = tuple[float, float]

# Ranges of hue, saturation and value. They overlap, so that the mean colour alone does not tell surfaces apart.
_COLORS = dict(wood=((0.03, 0.12), (0.25, 0.70), (0.35, 0.80)), brick=((0.00, 0.11), (0.15, 0.70), (0.35, 0.75)),
               grass=((0.13, 0.42), (0.25, 0.75), (0.30, 0.70)), water=((0.40, 0.66), (0.15, 0.70), (0.35, 0.75)),
               sand=((0.06, 0.16), (0.12, 0.55), (0.50, 0.90)))


def draw_layout(rng: np.random.Generator, size: tuple[int, int], unit: float, num_surfaces: int) -> np.ndarray:
    """Divide the canvas into 2-4 regions of different surfaces.

    Args:
        rng: source of randomness.
        size: (H, W) in pixels.
        unit: pixels per unit of length.
        num_surfaces: number of surfaces to choose from.

    Returns:
        (H, W) uint8, 0..num_surfaces - 1.
    """
    y, x = np.mgrid[:size[0], :size[1]].astype(np.float32) / unit
    count = rng.integers(2, 5)
    regions = np.zeros(size, np.uint8)
    for new in range(1, count):
        largest = regions == np.bincount(regions.ravel()).argmax()
        center_x, center_y = x[largest].mean(), y[largest].mean()
        for _ in range(20):
            jitter_x, jitter_y = rng.normal(0, 12, 2)
            cut = largest & _cut_region(rng, x - center_x - jitter_x, y - center_y - jitter_y)
            if 0.25 < cut.sum() / largest.sum() < 0.75:
                break
        regions[cut] = new
    surfaces = rng.permutation(num_surfaces)[:count].astype(np.uint8)
    return surfaces[regions]


def _cut_region(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """One side of a straight, wavy or closed smooth curve through (or around) the origin: (H, W) bool."""
    kind = rng.integers(3)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    if kind == 2:
        lobes = rng.integers(2, 5)
        radius = rng.uniform(28, 50) * (1 + rng.uniform(0.05, 0.2) * np.sin(lobes * np.arctan2(y, x) + phase))
        return np.hypot(x, y) < radius
    along, across = _rotate(x, y, angle)
    if kind == 1:
        across = across + rng.uniform(5, 12) * np.sin(along * 2 * np.pi / rng.uniform(50, 120) + phase)
    return across > 0


def draw_surfaces(rng: np.random.Generator, layout: np.ndarray, names: Sequence[str], unit: float) -> np.ndarray:
    """Draw every surface of a layout with its texture.

    Args:
        rng: source of randomness.
        layout: (H, W) integer, index into ``names``.
        names: surfaces, keys of ``_TEXTURES``.
        unit: pixels per unit of length.

    Returns:
        (H, W, 3) float32, RGB in 0..1.
    """
    canvas = np.empty((*layout.shape, 3), np.float32)
    for index in np.unique(layout):
        name = names[index]
        shade = np.clip(_TEXTURES[name](rng, *make_rotated_grid(rng, layout.shape, unit)), 0, 1)
        low, high = _choose_color_pair(rng, *_COLORS[name])
        where = layout == index
        canvas[where] = low + shade[where][:, None] * (high - low)
    return canvas


def _choose_color_pair(rng: np.random.Generator, hues: Range, saturations: Range, values: Range) -> tuple[np.ndarray, np.ndarray]:
    """A darker and a lighter colour of a surface, each (3,) float32."""
    hue, saturation, value = (rng.uniform(*limits) for limits in (hues, saturations, values))
    spread = rng.uniform(0.30, 0.45)
    low = colorsys.hsv_to_rgb(hue, saturation, value * (1 - spread))
    high = colorsys.hsv_to_rgb(hue + rng.uniform(-0.02, 0.02), saturation * 0.8, min(1, value * (1 + spread)))
    return np.array(low, np.float32), np.array(high, np.float32)


def make_rotated_grid(rng: np.random.Generator, size: Sequence[int], unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of a randomly turned and shifted grid.

    Args:
        rng: source of randomness.
        size: (H, W) in pixels.
        unit: pixels per unit of length.

    Returns:
        u and v, each (H, W) float32 in units of length.
    """
    angle = rng.uniform(0, 2 * np.pi)
    shift_u, shift_v = rng.uniform(0, 500, 2)
    y, x = np.mgrid[:size[0], :size[1]].astype(np.float32) / np.float32(unit)
    u, v = _rotate(x, y, angle)
    return u + np.float32(shift_u), v + np.float32(shift_v)


def _rotate(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in a frame that is turned by ``angle`` radians."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def make_smooth_noise(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, length_u: float, length_v: float) -> np.ndarray:
    """Value noise, interpolated smoothly.

    Args:
        rng: source of randomness.
        u, v: (H, W) float32, coordinates.
        length_u, length_v: distance of independent values along u and v, in the unit of the coordinates.

    Returns:
        (H, W) float32, mostly within 0..1, mean 0.5.
    """
    x, y = u / np.float32(length_u), v / np.float32(length_v)
    # The lattice reaches two points beyond the grid on each side, so that no border handling is involved.
    x, y = x - (np.floor(x.min()) - 2), y - (np.floor(y.min()) - 2)
    lattice = rng.random((int(y.max()) + 4, int(x.max()) + 4), dtype=np.float32)
    return cv2.remap(lattice, x, y, cv2.INTER_CUBIC)


# Each texture takes coordinates (H, W) of a rotated grid and returns shades (H, W), of which what lies outside 0..1 is cut.


def _shade_wood(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    scale = rng.uniform(0.8, 1.5)
    bend = make_smooth_noise(rng, u, v, 30, 60)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (u / (8 * scale) + 2 * bend))
    grain = make_smooth_noise(rng, u, v, 1.6 * scale, 30)
    return 0.45 * rings + 0.6 * grain - 0.05


def _shade_brick(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    width = rng.uniform(15, 26)
    height, joint = width * rng.uniform(0.42, 0.52), rng.uniform(1.6, 2.4)
    row = np.floor(v / height)
    shifted = u + row % 2 * width / 2
    column = np.floor(shifted / width)
    tones = rng.uniform(0.15, 0.5, (16, 16)).astype(np.float32)
    tone = tones[row.astype(int) % 16, column.astype(int) % 16] + 0.25 * make_smooth_noise(rng, u, v, 1.5, 1.5) - 0.12
    is_joint = (shifted - column * width < joint) | (v - row * height < joint)
    shade = np.where(is_joint, np.float32(1), tone)
    return shade if rng.random() < 0.6 else 0.9 - shade


def _shade_grass(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    scale = rng.uniform(0.8, 1.4)
    blades = np.zeros_like(u)
    for lean in rng.uniform(-0.9, 0.9, 4):
        blade = make_smooth_noise(rng, *_rotate(u, v, lean), 1.3 * scale, 7 * scale)
        blades = np.maximum(blades, blade)
    return 1.7 * blades - 0.85 + 0.4 * (make_smooth_noise(rng, u, v, 18, 18) - 0.5)


def _shade_water(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    scale = rng.uniform(0.8, 1.5)
    shift = np.float32(8) * make_smooth_noise(rng, u, v, 16, 16)
    crests = 1 - np.abs(2 * make_smooth_noise(rng, u + shift, v, 6 * scale, 15 * scale) - 1)
    return 0.15 + 0.75 * crests**4 + 0.3 * (make_smooth_noise(rng, u, v, 30, 30) - 0.5)


def _shade_sand(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    scale = rng.uniform(0.9, 1.3)
    grains = make_smooth_noise(rng, u, v, 1.3 * scale, 1.3 * scale)
    specks = make_smooth_noise(rng, u, v, 1.7 * scale, 1.7 * scale) < 0.14
    return 0.35 + 0.6 * grains - 0.5 * specks + 0.3 * (make_smooth_noise(rng, u, v, 35, 35) - 0.5)


_TEXTURES = dict(wood=_shade_wood, brick=_shade_brick, grass=_shade_grass, water=_shade_water, sand=_shade_sand)


def choose_contrasting_color(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """A random colour that stands out from a background.

    Args:
        rng: source of randomness.
        pixels: (N, 3) float, RGB in 0..1, the background.

    Returns:
        (3,) float32, RGB in 0..1.
    """
    pixels = pixels[::max(1, len(pixels) // 64)]
    hsv = rng.uniform((0, 0.1, 0.05), (1, 1, 1), (16, 3))
    colors = np.array([colorsys.hsv_to_rgb(*candidate) for candidate in hsv], np.float32)
    weights = np.array([0.9, 1.6, 0.5], np.float32)  # roughly how strongly the eye weighs the channels
    distances = np.sqrt(((colors[:, None] - pixels)**2 * weights).sum(-1))
    # A low percentile, so that the colour differs from nearly all of the background and not only on average.
    scores = np.percentile(distances, 5, axis=1)
    good = np.flatnonzero(scores > rng.uniform(0.42, 0.6))
    return colors[good[0] if len(good) else scores.argmax()]


def finish_photo(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Add a lighting gradient, a colour cast, slight blur and slight noise.

    Args:
        rng: source of randomness.
        canvas: (H, W, 3) float32, RGB in 0..1.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    height, width = canvas.shape[:2]
    slope_x, slope_y = rng.uniform(-0.2, 0.2, 2).astype(np.float32)
    light = (1 + slope_x * np.linspace(-1, 1, width, dtype=np.float32)
             + slope_y * np.linspace(-1, 1, height, dtype=np.float32)[:, None])
    canvas = canvas * (light[..., None] * rng.uniform(0.9, 1.1, 3).astype(np.float32))
    canvas = cv2.GaussianBlur(canvas, (5, 5), rng.uniform(0.3, 0.8))
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(0.005, 0.03))
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
