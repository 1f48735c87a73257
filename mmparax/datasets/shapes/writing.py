"""Writes shapes as masks, or as COCO's annotations.

As masks, for ``prepare_masks.py``:

    images/[SPLIT/]NAME.jpg    copies of the images, or links to them
    masks/[SPLIT/]NAME.png     number of the class, and 255 for ignored shapes
    classes.json

As COCO:

    images/{training,validation}/NAME.jpg
    annotations/{training,validation}.json
    classes.json
"""
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks

from mmparax.datasets.drafts import replace_folder
from mmparax.datasets.drawing import draw_validation
from mmparax.datasets.masks.numbering import IGNORED, MAX_CLASSES
from mmparax.datasets.shapes.collection import LABELME_BACKGROUND, ShapeSet
from mmparax.datasets.shapes.raster import draw, encode, get_outline
from mmparax.datasets.shapes.shapes import Shape, ShapeImage
from mmparax.errors import InputError
from mmparax.utils.progress import Progress

FORMAT = 'mmparax-shapes'


def name_mask_classes(found: ShapeSet, background: str | None) -> list[str]:
    """Names of the values in the masks, from 0: the background first, if pixels without a shape are one.

    Raises:
        InputError: if there are too many.
    """
    names = found.classes if background is None else [background, *(name for name in found.classes if name != background)]
    if len(names) > MAX_CLASSES:
        raise InputError(f'there are {len(names)} labels, and there can be at most {MAX_CLASSES} classes.')
    return list(names)


def write_shape_masks(found: ShapeSet, out_dir: str | Path, background: str | None = 'background', link: bool = False,
                      progress: bool = True) -> int:
    """Write images and masks; later shapes, and those of a higher z_order, lie above the others.

    Args:
        found: from :func:`mmparax.datasets.shapes.collection.read_shapes`.
        out_dir: folder to create; it appears only when all is written.
        background: name of the class of pixels without a shape; None: they are ignored.
        link: make symbolic links to the images instead of copies.
        progress: show a progress bar.

    Returns:
        the number of shapes that cover no pixel.

    Raises:
        StorageError: if it cannot be written.
    """
    empty = 0
    names = name_mask_classes(found, background)
    values = {name: value for value, name in enumerate(names)} | dict.fromkeys(found.ignored, IGNORED)
    values[LABELME_BACKGROUND] = IGNORED if background is None else 0
    with replace_folder(out_dir) as draft:
        for image in Progress(found.images, desc='writing', unit='image', disable=not progress):
            split, name = image.name
            _place_image(image, draft / 'images' / split, link)
            mask = np.full((image.height, image.width), IGNORED if background is None else 0, np.uint8)
            for shape in image.shapes:
                pixels = draw(shape, image.height, image.width)
                empty += not pixels.any()
                mask[pixels] = values[shape.label]
            (draft / 'masks' / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(draft / 'masks' / split / f'{name}.png')
        _write_json(draft / 'classes.json', dict(format=FORMAT, version=1, classes=names))
    return empty


def write_coco(found: ShapeSet, out_dir: str | Path, val_ratio: float = 0.2, seed: int = 0, link: bool = False,
               progress: bool = True) -> tuple[dict[str, tuple[int, int]], int]:
    """Write images, and COCO's annotations of each split; ignored shapes are left out.

    Shapes of a label and a group are one object. Images in folders such as ``train`` and ``val`` keep that split; else the
    validation images are drawn by their names.

    Args:
        found: from :func:`mmparax.datasets.shapes.collection.read_shapes`.
        out_dir: folder to create; it appears only when all is written.
        val_ratio: share of the images that are drawn.
        seed: which ones.
        link: make symbolic links to the images instead of copies.
        progress: show a progress bar.

    Returns:
        (number of images, number of objects) of each split, and the number of objects that cover no pixel and were left out.

    Raises:
        InputError: if there is nothing for training or validation.
        StorageError: if it cannot be written.
    """
    splits: dict[str, list[ShapeImage]] = {}
    for image in found.images:
        splits.setdefault(image.name[0] or 'training', []).append(image)
    if 'training' not in splits or ('validation' not in splits and len(splits['training']) < 2):
        raise InputError(f'there are {len(splits.get("training", ()))} image(s) for training: training and validation need one '
                         'each.')
    if 'validation' not in splits:
        splits['training'], splits['validation'] = draw_validation(splits['training'], lambda image: image.name[1], val_ratio,
                                                                   seed)
    counts, empty = {}, 0
    total = len(found.images)
    with replace_folder(out_dir) as draft, Progress(total=total, desc='writing', unit='image', disable=not progress) as bar:
        (draft / 'annotations').mkdir()
        for split, images in splits.items():
            content, dropped = _make_coco(sorted(images, key=lambda image: image.name), found.classes, bar.update)
            for image in images:
                _place_image(image, draft / 'images' / split, link)
            _write_json(draft / 'annotations' / f'{split}.json', content)
            counts[split] = len(images), len(content['annotations'])
            empty += dropped
        _write_json(draft / 'classes.json', dict(format=FORMAT, version=1, classes=found.classes))
    return counts, empty


def _make_coco(images: list[ShapeImage], classes: list[str], step: Callable[[], Any]) -> tuple[dict[str, Any], int]:
    empty = 0
    content: dict[str, Any] = dict(images=[], annotations=[],
                                   categories=[dict(id=number, name=name) for number, name in enumerate(classes, 1)])
    for number, image in enumerate(images, 1):
        content['images'].append(dict(id=number, file_name=_name_file(image), height=image.height, width=image.width))
        objects: dict[Any, list[Shape]] = {}
        for position, shape in enumerate(image.shapes):
            if shape.label in classes:
                objects.setdefault((shape.label, shape.group) if shape.group else position, []).append(shape)
        for parts in objects.values():
            annotation = _make_annotation(parts, image.height, image.width)
            empty += annotation['area'] == 0
            if annotation['area'] > 0:
                content['annotations'].append(
                    dict(id=len(content['annotations']) + 1, image_id=number, category_id=1 + classes.index(parts[0].label),
                         iscrowd=0, **annotation))
        step()
    return content, empty


def _make_annotation(parts: list[Shape], height: int, width: int) -> dict[str, Any]:
    """Segmentation, area and box of one object, as pycocotools sees it."""
    outlines = [outline for outline in map(get_outline, parts) if outline is not None]
    if len(outlines) == len(parts):
        segmentation: Any = [outline.ravel().round(2).tolist() for outline in outlines]
        lengths = encode([outline.round(2) for outline in outlines], height, width)
    else:
        union = np.logical_or.reduce([draw(shape, height, width) for shape in parts])
        lengths = coco_masks.encode(np.asfortranarray(union, np.uint8))
        segmentation = dict(size=[height, width], counts=lengths['counts'].decode())
    return dict(segmentation=segmentation, area=float(coco_masks.area(lengths)), bbox=coco_masks.toBbox(lengths).tolist())


def _name_file(image: ShapeImage) -> str:
    return image.name[1] + image.file.suffix.lower().replace('.jpeg', '.jpg').replace('.tiff', '.tif')


def _place_image(image: ShapeImage, folder: Path, link: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _name_file(image)
    target.symlink_to(image.file.resolve()) if link else shutil.copyfile(image.file, target)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content) + '\n', encoding='utf-8')
