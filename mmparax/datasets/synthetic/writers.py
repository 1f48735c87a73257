"""Writes synthetic scenes in the layouts that the toolboxes read: ADE20K, COCO instances, COCO panoptic, folders of crops.

All are made from the same pixels and lie in one folder, side by side:

    images/{training,validation}/scene_00000.jpg              the images of the first three
    annotations/{training,validation}/scene_00000.png         class index + 1 (0 is "other" and unused here)
    annotations/instances_{training,validation}.json          digits only, category id = class index + 1, masks as RLE
    annotations/panoptic_{training,validation}.json           category id = class index + 1
    annotations/panoptic_{training,validation}/scene_00000.png    segment id = R + 256 G + 256^2 B
    crops/{training,validation}/CLASS/scene_00000_0.png       square pieces of the images
    classes.json                                              names, palette, counts
"""
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_masks

from mmparax.datasets.synthetic.scenes import CLASSES, PALETTE, SPLITS, THING_CLASSES, Scene, SceneGenerator
from mmparax.errors import ParameterError, check_int
from mmparax.utils.progress import Progress

FOLDERS = dict(train='training', val='validation')
# mmpretrain's CustomDataset numbers the classes by the sorted names of their folders: the names in that order.
CROP_CLASSES = tuple(sorted(CLASSES))

_FORMAT = 'mmparax-scenes'
_VERSION = 2


def write_scenes(out_dir: str | Path, num_train: int, num_val: int, seed: int = 0, size: Sequence[int] = (128, 128),
                 progress: bool = True, overwrite: bool = False) -> bool:
    """Write scenes with their ground truth in all layouts.

    The folder appears only when all is written; an interrupted call leaves nothing behind.

    Args:
        out_dir: folder to create.
        num_train, num_val: number of scenes; at least 1 and 0.
        seed: seed of the scenes.
        size: (H, W) in pixels, each at least 64.
        progress: show a progress bar.
        overwrite: replace another data set of this kind in ``out_dir``.

    Returns:
        False if ``out_dir`` held this very data set already, or another process has put it there by the end.

    Raises:
        ParameterError: if an argument is out of range, or ``out_dir`` holds something else.
    """
    check_int('num_train', num_train, 1)
    check_int('num_val', num_val, 0)
    generators = [SceneGenerator(split, seed, size) for split in SPLITS]
    counts = dict(zip(SPLITS, (int(num_train), int(num_val))))
    meta = dict(format=_FORMAT, version=_VERSION, classes=list(CLASSES), palette=[list(rgb) for rgb in PALETTE], counts=counts,
                seed=int(seed), size=list(generators[0].size))
    root = Path(out_dir).resolve()
    if _holds_scenes(root, meta, overwrite):
        print(f'{root} already holds these scenes: nothing to do.')
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = root.with_name(f'.{root.name}.{os.getpid()}.tmp')
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with Progress(total=sum(counts.values()), desc='scenes', disable=not progress) as bar:
            for generator in generators:
                _write_split(draft, generator, counts[generator.split], bar)
        _write_json(draft / 'classes.json', dict(meta, files=_count_files(draft)), indent=1)
        if overwrite and root.exists():
            shutil.rmtree(root)
        try:
            draft.rename(root)
        except OSError:
            if not _holds_scenes(root, meta, overwrite=False):  # another process may have written the same scenes in the meantime
                raise
            return False
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return True


def _write_split(root: Path, generator: SceneGenerator, count: int, bar: Progress) -> None:
    """Write the files of one split below ``root``."""
    folder = FOLDERS[generator.split]
    images, labels, panoptic = (root / kind
                                for kind in (f'images/{folder}', f'annotations/{folder}', f'annotations/panoptic_{folder}'))
    crops = [root / 'crops' / folder / name for name in CLASSES]  # each, as the data set counts its classes by them
    for path in (images, labels, panoptic, *crops):
        path.mkdir(parents=True)
    infos: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    for index in range(count):
        scene, name = generator.generate(index), f'scene_{index:05d}'
        Image.fromarray(scene.image).save(images / f'{name}.jpg', quality=95)
        Image.fromarray(scene.build_semantic_map() + np.uint8(1)).save(labels / f'{name}.png')
        # Numbers start at 1: COCO's evaluation takes the annotation 0 for "no match".
        height, width = scene.stuff.shape
        infos.append(dict(id=index + 1, file_name=f'{name}.jpg', height=height, width=width))
        instances += _describe_instances(scene, index + 1, len(instances) + 1)
        colors, described = _describe_segments(scene)
        Image.fromarray(colors).save(panoptic / f'{name}.png')
        segments.append(dict(image_id=index + 1, file_name=f'{name}.png', segments_info=described))
        for number, (label, (x1, y1, x2, y2)) in enumerate(scene.find_crops()):
            Image.fromarray(scene.image[y1:y2, x1:x2]).save(crops[label] / f'{name}_{number}.png')
        bar.update()
    for kind, classes, annotations in (('instances', THING_CLASSES, instances), ('panoptic', CLASSES, segments)):
        info = dict(description=f'mmparax synthetic scenes, {folder}', version=str(_VERSION))
        _write_json(root / 'annotations' / f'{kind}_{folder}.json',
                    dict(info=info, licenses=[], images=infos, annotations=annotations, categories=_describe_categories(classes)))


def _describe_categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    """COCO's description of the first classes."""
    return [
        dict(id=index + 1, name=name, supercategory='digit' if name in THING_CLASSES else 'surface',
             isthing=int(name in THING_CLASSES), color=list(PALETTE[index])) for index, name in enumerate(classes)
    ]


def _describe_instances(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO's annotations of the digits of a scene, numbered from ``first_id``."""
    annotations = []
    for number, instance in enumerate(scene.instances, first_id):
        code = coco_masks.encode(np.asfortranarray(instance.mask, np.uint8))
        x1, y1, x2, y2 = instance.bbox
        annotations.append(
            dict(id=number, image_id=image_id, category_id=instance.label + 1, iscrowd=0, area=int(instance.mask.sum()),
                 bbox=[x1, y1, x2 - x1, y2 - y1], segmentation=dict(size=code['size'], counts=code['counts'].decode('ascii'))))
    return annotations


def _describe_segments(scene: Scene) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """COCO's panoptic map of a scene, (H, W, 3) uint8 RGB, and the description of its segments.

    A segment has the colour of its class, darkened until no other segment has it.
    """
    ids, infos = scene.build_panoptic_map()
    colors = np.zeros((len(infos) + 1, 3), np.uint8)
    used, described = set(), []
    for info in infos:
        red, green, blue = PALETTE[info['category_id']]
        while (red, green, blue) in used:
            red, green, blue = (channel * 7 // 8 for channel in (red, green, blue))
        used.add((red, green, blue))
        colors[info['id']] = red, green, blue
        described.append(
            dict(id=red + 256 * green + 256**2 * blue, category_id=info['category_id'] + 1, iscrowd=0, area=info['area'],
                 bbox=info['bbox']))
    return colors[ids], described


def _write_json(path: Path, content: dict[str, Any], indent: Any = None) -> None:
    path.write_text(json.dumps(content, indent=indent) + '\n', encoding='utf-8')


def _count_files(root: Path) -> dict[str, int]:
    """Number of files in each folder below ``root``."""
    return {
        path.relative_to(root).as_posix(): sum(entry.is_file() for entry in path.iterdir()) for path in sorted(root.rglob('*'))
        if path.is_dir()
    }


def _holds_scenes(root: Path, meta: dict[str, Any], overwrite: bool) -> bool:
    """Whether ``root`` holds the data set that ``meta`` describes; ParameterError if it must not be written to."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / 'classes.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get('format') != _FORMAT:
        # Never deleted, not even when forced: it may be anything.
        raise ParameterError('out_dir', str(root), 'it holds something that is not a set of synthetic scenes',
                             'Choose another folder.')
    wrong = [f'{name}={found.get(name)!r} instead of {value!r}' for name, value in meta.items() if found.get(name) != value]
    if found.get('version') != _VERSION:
        problem = (f'scenes of version {found.get("version")}, written before the COCO layouts and the crops were there '
                   f'(this is version {_VERSION})')
    elif wrong:
        problem = f'other scenes ({", ".join(wrong)})'
    else:
        there = _count_files(root)
        incomplete = [folder for folder, count in found.get('files', {}).items() if there.get(folder, 0) < count]
        if not incomplete:
            return True
        problem = f'incomplete scenes (files are missing in {", ".join(incomplete[:3])})'
    if not overwrite:
        raise ParameterError('out_dir', str(root), f'it holds {problem}',
                             'Choose another folder, or replace them with overwrite=True.')
    return False
