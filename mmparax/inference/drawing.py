"""Pictures of predictions and ground truth for every task: maps, masks, boxes and names on the image.

The toolboxes' visualizers draw by matplotlib and need a second and more for a picture; NumPy, OpenCV and Pillow need some tens
of milliseconds, and one look serves all tasks.
"""
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmparax.inference.labels import Labeller
from mmparax.inference.pictures import Palette

Size = tuple[int, int]  # (height, width) in pixels
INSTANCE_OFFSET = 1000  # mmdetection's panoptic maps hold number * 1000 + class
SHORT_SIDE, LONG_SIDE = 512, 2048  # smaller images are enlarged: letters and lines have a fixed size in pixels
OPACITY = 0.55  # of a colour on the image
# Shares of the picture: the largest part of a segment gets a name from the first on, every part from the second on.
SMALLEST_SHARE, LARGE_SHARE = 0.002, 0.03
REDUCED = 384  # pixels of the longer side of the map on which places for names are looked for
TOP = 3  # classes of a classifier that are named
# Blue and orange differ for colour-blind readers, too.
RIGHT, WRONG, PLAIN = (110, 200, 255), (255, 150, 60), (255, 255, 255)


def draw_sample(image: np.ndarray, sample: Any, classes: Sequence[str], palette: Palette, score_thr: float = 0.3,
                size: Size | None = None) -> np.ndarray:
    """Draw the prediction in a toolbox's data sample.

    Args:
        image: (H, W, 3) uint8 RGB, at the size of the prediction.
        sample: of mmseg, mmdet or mmpretrain, from ``model.test_step``.
        classes: names of the classes.
        palette: RGB of each class.
        score_thr: leave out objects with a lower score.
        size: (height, width) of the picture; by default that of the image, or a multiple of it if it is small.

    Returns:
        np.ndarray: (height, width, 3) uint8 RGB.
    """
    if 'pred_panoptic_seg' in sample:
        return _draw_map(image, to_array(sample.pred_panoptic_seg.sem_seg)[0], classes, palette, size)
    if 'pred_sem_seg' in sample:
        return _draw_map(image, to_array(sample.pred_sem_seg.data)[0], classes, palette, size)
    if 'pred_instances' in sample:
        found = sample.pred_instances[sample.pred_instances.scores >= score_thr]
        return _draw_objects(image, found, classes, palette, size, to_array(found.scores))
    if 'pred_score' not in sample:
        return enlarge(image, size)
    scores = to_array(sample.pred_score).ravel()
    best = np.argsort(-scores, kind='stable')[:TOP]
    truth = to_array(sample.gt_label).ravel() if 'gt_label' in sample else None
    colors = [PLAIN if truth is None else RIGHT if label in truth else WRONG for label in best[:1]]
    return _write_lines(enlarge(image, size), [f'{name_class(classes, label)}: {scores[label]:.2f}' for label in best], colors)


def draw_truth(image: np.ndarray, sample: Any, classes: Sequence[str], palette: Palette,
               size: Size | None = None) -> np.ndarray | None:
    """Draw the ground truth in a toolbox's data sample, as :func:`draw_sample` does; None if it holds none."""
    labels = read_true_map(sample, image.shape[:2])
    if labels is not None:
        return _draw_map(image, labels, classes, palette, size)
    objects = get_true_objects(sample)
    if objects is not None:
        return _draw_objects(image, objects, classes, palette, size)
    if 'gt_label' in sample:
        return _write_lines(enlarge(image, size), [name_class(classes, label) for label in to_array(sample.gt_label).ravel()])
    return None


def get_true_objects(sample: Any) -> Any:
    """The objects of the ground truth in a data sample, or None if it holds none."""
    return sample.gt_instances if 'gt_instances' in sample and 'labels' in sample.gt_instances else None


def read_true_map(sample: Any, size: Size) -> np.ndarray | None:
    """The map of the ground truth in a data sample, or None if it holds none.

    Args:
        sample: of mmseg or mmdet.
        size: (H, W) of the image.

    Returns:
        np.ndarray: (H, W) int; classes, and number * 1000 + class for the objects of a panoptic one.
    """
    if 'gt_sem_seg' not in sample:
        return None
    fields, objects = sample.gt_sem_seg, get_true_objects(sample)
    labels = to_array(fields.data if 'data' in fields else fields.sem_seg)[0].astype(np.int64)
    if labels.shape != tuple(size):  # loaded before the image was resized
        labels = cv2.resize(labels.astype(np.int32), size[::-1], interpolation=cv2.INTER_NEAREST)
    masks = find_masks(objects, size)
    if masks is not None:
        for number, (mask, label) in enumerate(zip(masks, to_array(objects.labels)), 1):
            labels[mask] = number * INSTANCE_OFFSET + label
    return labels


def join_pictures(pictures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Put pictures of one size side by side, each below its name; one alone stays as it is.

    Args:
        pictures: name -> (H, W, 3) uint8.
    """
    if len(pictures) == 1:
        return next(iter(pictures.values()))
    height, width = next(iter(pictures.values())).shape[:2]
    font = _load_font(15)
    sheet = Image.new('RGB', (len(pictures) * width + 4 * (len(pictures) - 1), height + 24), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for number, (name, picture) in enumerate(pictures.items()):
        sheet.paste(Image.fromarray(picture), (number * (width + 4), 24))
        pen.text((number * (width + 4) + 4, 3), name, fill=(0, 0, 0), font=font)
    return np.asarray(sheet)


def choose_factor(height: int, width: int) -> int:
    """How many times an image is enlarged: until its shorter side has about ``SHORT_SIDE`` pixels, if it is smaller."""
    return max(1, min(round(SHORT_SIDE / min(height, width)), LONG_SIDE // max(height, width)))


def enlarge(image: np.ndarray, size: Size | None = None) -> np.ndarray:
    """A copy of an image (H, W, 3), enlarged if it is small, or of another size."""
    height, width = image.shape[:2]
    factor = choose_factor(height, width)
    size = size or (height * factor, width * factor)
    return image.copy() if size == (height, width) else cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)


def make_palette(metainfo: Mapping[str, Any], count: int) -> list[tuple[int, ...]]:
    """The colours of a data set, or as many random ones, always the same."""
    palette = metainfo.get('palette')
    if palette is None or isinstance(palette, str) or len(palette) < count:
        palette = np.random.RandomState(42).randint(256, size=(count, 3)).tolist()
    return [tuple(color) for color in palette]


def to_array(value: Any) -> np.ndarray:
    """Tensors on any device, boxes of mmdetection and arrays as arrays."""
    value = getattr(value, 'tensor', value)
    return value.detach().cpu().numpy() if hasattr(value, 'detach') else np.asarray(value)


def name_class(classes: Sequence[str], label: Any) -> str:
    return str(classes[label]) if 0 <= label < len(classes) else f'class {label}'


@functools.cache
def _load_font(size: int) -> Any:
    return ImageFont.load_default(size)


def choose_font(picture: np.ndarray) -> Any:
    return _load_font(min(max(min(picture.shape[:2]) // 32, 14), 32))


def find_masks(objects: Any, size: tuple[int, int]) -> np.ndarray | None:
    """The masks (n, H, W) of objects as bool, or None if they have none of this size."""
    if objects is None or 'masks' not in objects:
        return None
    masks = objects.masks
    masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else to_array(masks)
    return masks.astype(bool) if masks.shape[1:] == tuple(size) else None


def _blend(picture: np.ndarray, where: np.ndarray, colors: Any) -> None:
    """Mix colours, one or one a pixel, into the part of a picture where a mask (H, W) is set; in place."""
    layer = np.broadcast_to(np.asarray(colors, np.uint8), picture.shape)
    mixed = cv2.addWeighted(picture, 1 - OPACITY, np.ascontiguousarray(layer), OPACITY, 0)
    cv2.copyTo(mixed, where.astype(np.uint8), picture)


def _draw_map(image: np.ndarray, segments: np.ndarray, classes: Sequence[str], palette: Palette,
              size: Size | None = None) -> np.ndarray:
    """Colour the segments of a map (H, W): classes, or classes with a number; what is no class stays as it is."""
    values, index = _number_values(segments)
    labels = values % INSTANCE_OFFSET if len(classes) < INSTANCE_OFFSET else values
    known = (values >= 0) & (labels < min(len(palette), len(classes)))
    # Objects of one class differ a little.
    shades = np.where(values >= INSTANCE_OFFSET, 1 - 0.18 * (values // INSTANCE_OFFSET % 4), 1.)
    colors = np.array([
        np.asarray(palette[label]) * shade if fine else (0, 0, 0) for label, fine, shade in zip(labels, known, shades)
    ]).astype(np.uint8)
    picture = enlarge(image, size)
    large = cv2.resize(index, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    _blend(picture, known[large], colors[large])
    edges = np.zeros(large.shape, np.uint8)
    edges[1:] |= large[1:] != large[:-1]
    edges[:, 1:] |= large[:, 1:] != large[:, :-1]
    cv2.copyTo(picture // 3, edges, picture)
    step = -(-max(large.shape) // REDUCED)
    small, texts = large[::step, ::step], []
    for number, (label, fine) in enumerate(zip(labels, known)):
        for x, y in find_places(small == number) if fine else ():
            texts.append(((x * step, y * step), name_class(classes, label)))
    return _write_names(picture, texts)


def _number_values(segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of a map (H, W), and the map with the place of each value in them, as ``np.unique`` gives them but faster."""
    segments = segments.astype(np.int64)
    least = int(segments.min())
    counts = np.bincount((segments - least).ravel())
    values = np.flatnonzero(counts)
    places = np.zeros(len(counts), np.uint16 if len(values) < 1 << 16 else np.int32)
    places[values] = np.arange(len(values))
    return values + least, places[segments - least]


def find_places(mask: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield for each large part of a mask (H, W) the point (x, y) in it that is farthest from its edge."""
    _, parts, figures, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = figures[1:, cv2.CC_STAT_AREA]
    for part in np.flatnonzero(areas >= min(LARGE_SHARE * mask.size, max(areas.max(initial=0), SMALLEST_SHARE * mask.size))) + 1:
        inside = np.pad((parts == part).astype(np.uint8), 1)  # the border of the picture is an edge, too
        y, x = np.unravel_index(cv2.distanceTransform(inside, cv2.DIST_L2, 3).argmax(), inside.shape)
        yield int(x) - 1, int(y) - 1


def _write_names(picture: np.ndarray, texts: Sequence[tuple[tuple[int, int], str]]) -> np.ndarray:
    """Write names with their middles at points (x, y), or near them."""
    canvas = Image.fromarray(picture)
    labeller = Labeller(canvas.size, choose_font(picture))
    for (x, y), text in texts:
        labeller.add_at(x, y, text)
    return labeller.write(canvas)


def _write_lines(picture: np.ndarray, lines: Sequence[str], colors: Sequence[tuple[int, int, int]] = ()) -> np.ndarray:
    """Write lines of text into the upper left corner; those without a colour are white."""
    canvas = Image.fromarray(picture)
    pen, font = ImageDraw.Draw(canvas), choose_font(picture)
    for number, line in enumerate(lines):
        color = colors[number] if number < len(colors) else PLAIN
        pen.text((6, 4 + number * font.size * 1.25), line, fill=color, font=font, stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(canvas)


def _draw_objects(image: np.ndarray, objects: Any, classes: Sequence[str], palette: Palette, size: Size | None = None,
                  scores: np.ndarray | None = None) -> np.ndarray:
    """Draw the masks, boxes and names of objects, the one with the highest score last."""
    labels = to_array(objects.labels).astype(int)
    order = np.argsort(scores, kind='stable') if scores is not None else np.arange(len(labels))
    masks = find_masks(objects, image.shape[:2])
    colors = [tuple(int(part) for part in palette[label % len(palette)]) for label in labels]
    picture = enlarge(image, size)
    factors = np.array([picture.shape[1] / image.shape[1], picture.shape[0] / image.shape[0]] * 2)
    for number in order if masks is not None else ():
        left, top, width, height = cv2.boundingRect(masks[number].astype(np.uint8))
        if width and height:
            x1, y1, x2, y2 = (factors * (left, top, left + width, top + height)).round().astype(int)
            part = picture[y1:y2, x1:x2]
            mask = cv2.resize(masks[number][top:top + height, left:left + width].astype(np.uint8), part.shape[1::-1],
                              interpolation=cv2.INTER_NEAREST)
            mixed = np.ascontiguousarray(part)
            _blend(mixed, mask, colors[number])
            part[:] = mixed
    canvas = Image.fromarray(picture)
    pen, font = ImageDraw.Draw(canvas), choose_font(picture)
    width = max(2, min(canvas.size) // 250)
    boxes = to_array(objects.bboxes)[:, :4] * factors if 'bboxes' in objects else np.zeros((0, 4))
    for number in order[:len(boxes)]:
        left, top, right, bottom = boxes[number]
        pen.rectangle([left, top, max(right - 1, left), max(bottom - 1, top)], outline=colors[number], width=width)
    labeller = Labeller(canvas.size, font)
    for number in order[:len(boxes)][::-1]:
        text = name_class(classes, labels[number]) + (f': {scores[number]:.2f}' if scores is not None else '')
        labeller.add_to_box(boxes[number], text)
    return labeller.write(canvas)
