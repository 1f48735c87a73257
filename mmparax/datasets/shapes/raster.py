"""Which pixels a shape covers, as the tool that it was drawn with says."""
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_masks

from mmparax.datasets.shapes.shapes import Shape

LINE_WIDTH, POINT_RADIUS = 10, 5  # LabelMe's, for shapes that have no area
OUTLINES = ('polygon', 'rectangle', 'oriented_rectangle', 'rotation', 'area')  # those that COCO has as a polygon


def draw(shape: Shape, height: int, width: int) -> np.ndarray:
    """(height, width) bool: the pixels of a shape.

    LabelMe's shapes (``polygon``, ``rectangle``, ``circle``, ...) cover what its own ``shape_to_mask`` covers, outlines
    included; an ``area``, as CVAT's polygons, boxes and ellipses become, what pycocotools covers, as in CVAT's own exports.
    """
    if shape.mask is not None:
        return _paste(shape.mask, shape.points[0], height, width)
    if shape.kind == 'area':
        return coco_masks.decode(encode([shape.points], height, width)).astype(bool)
    picture = Image.new('L', (width, height))
    _PAINTERS[shape.kind](ImageDraw.Draw(picture), [(float(x), float(y)) for x, y in shape.points])
    return np.asarray(picture) > 0


def encode(polygons: list[np.ndarray], height: int, width: int) -> dict:
    """COCO's run lengths of the union of polygons."""
    return coco_masks.merge(coco_masks.frPyObjects([polygon.ravel().tolist() for polygon in polygons], height, width))


def get_outline(shape: Shape) -> np.ndarray | None:
    """(P, 2) corners of a shape that is a polygon for COCO, else None."""
    if shape.mask is not None or shape.kind not in OUTLINES:
        return None
    if shape.kind == 'rectangle' and len(shape.points) == 2:
        (left, top), (right, bottom) = shape.points.min(0), shape.points.max(0)
        return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return shape.points


def _paste(mask: np.ndarray, corner: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask with its corner at a place; what is beyond the image is cut off."""
    left, top = map(int, corner)
    canvas = np.zeros((height, width), bool)
    y, x = np.nonzero(mask)
    inside = (y + top >= 0) & (y + top < height) & (x + left >= 0) & (x + left < width)
    canvas[y[inside] + top, x[inside] + left] = True
    return canvas


Points = list[tuple[float, float]]


def _paint_polygon(draw: ImageDraw.ImageDraw, points: Points) -> None:
    draw.polygon(points, fill=1, outline=1)


def _paint_rectangle(draw: ImageDraw.ImageDraw, points: Points) -> None:
    if len(points) == 4:
        _paint_polygon(draw, points)
    else:
        xs, ys = zip(*points)
        draw.rectangle([min(xs), min(ys), max(xs), max(ys)], fill=1, outline=1)


def _paint_circle(draw: ImageDraw.ImageDraw, points: Points) -> None:
    _paint_disc(draw, points[0], math.dist(*points))


def _paint_point(draw: ImageDraw.ImageDraw, points: Points) -> None:
    _paint_disc(draw, points[0], POINT_RADIUS)


def _paint_line(draw: ImageDraw.ImageDraw, points: Points) -> None:
    draw.line(points, fill=1, width=LINE_WIDTH)


def _paint_disc(draw: ImageDraw.ImageDraw, center: tuple[float, float], radius: float) -> None:
    x, y = center
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=1, outline=1)


_PAINTERS: dict[str, Callable[[ImageDraw.ImageDraw, Points],
                              None]] = dict(polygon=_paint_polygon, oriented_rectangle=_paint_polygon, rotation=_paint_polygon,
                                            rectangle=_paint_rectangle, circle=_paint_circle, point=_paint_point,
                                            line=_paint_line, linestrip=_paint_line)
