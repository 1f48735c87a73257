"""A picture of synthetic scenes with their ground truth for every task."""
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from pycocotools import mask as coco_masks

from mmparax.datasets.synthetic.scenes import CLASSES, PALETTE
from mmparax.datasets.synthetic.writers import FOLDERS
from mmparax.inference.pictures import draw_objects, outline

CROP_COLUMNS = 5  # two lines of crops a scene: it has at most 5 digits and 4 surfaces


def write_preview(root: Path, count: int) -> None:
    """Draw training scenes as their files tell: image, class map, instances, panoptic segments and crops, a scene a line.

    Args:
        root: folder of the scenes; preview.png is written to it.
        count: number of scenes, at least 1.
    """
    folder = FOLDERS['train']
    annotations = json.loads((root / 'annotations' / f'instances_{folder}.json').read_text(encoding='utf-8'))
    images = annotations['images'][:count]
    figure = Figure(figsize=(15, 2.3 * len(images) + 0.9))  # not pyplot: needs no display
    height = figure.get_figheight()
    lines = figure.add_gridspec(len(images), 5, width_ratios=[1, 1, 1, 1, 2.4], left=0.01, right=0.99, wspace=0.04, hspace=0.12,
                                top=1 - 0.25 / height, bottom=0.65 / height)
    for line, info in enumerate(images):
        name = Path(info['file_name']).stem
        image = _read(root / 'images' / folder / info['file_name'])
        objects = [each for each in annotations['annotations'] if each['image_id'] == info['id']]
        segments = _read(root / 'annotations' / f'panoptic_{folder}' / f'{name}.png')
        panels = [(name, image), ('classes', np.array(PALETTE,
                                                      np.uint8)[_read(root / 'annotations' / folder / f'{name}.png') - 1]),
                  ('instances', _draw_instances(image, objects)),
                  ('panoptic segments', outline(segments, segments @ (1, 256, 256**2)))]
        axes = [figure.add_subplot(lines[line, column]) for column in range(len(panels))]
        for axis, (title, picture) in zip(axes, panels):
            _show(axis, picture, title if line == 0 or axis is axes[0] else '')
        crops = lines[line, 4].subgridspec(2, CROP_COLUMNS, wspace=0.05, hspace=0.3)
        paths = sorted((root / 'crops' / folder).glob(f'*/{name}_*'), key=lambda path: int(path.stem.split('_')[-1]))
        for number, path in enumerate(paths):
            crop = _read(path)
            axis = figure.add_subplot(crops[divmod(number, CROP_COLUMNS)])
            _show(axis, crop, f'{path.parent.name}: {len(crop)}²')
    patches = [Patch(facecolor=np.array(color) / 255, edgecolor='black', linewidth=0.5) for color in PALETTE]
    figure.legend(patches, CLASSES, loc='lower center', ncol=8, fontsize=9, frameon=False)
    figure.savefig(root / 'preview.png', dpi=100)


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def _show(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture, interpolation='nearest')
    axis.set_title(title, fontsize=8, pad=2)
    axis.axis('off')


def _draw_instances(image: np.ndarray, annotations: list[dict[str, Any]]) -> np.ndarray:
    """The masks, boxes and class names of one image, drawn on it."""
    labels = [annotation['category_id'] - 1 for annotation in annotations]
    x, y, width, height = np.array([annotation['bbox'] for annotation in annotations]).reshape(-1, 4).T
    return draw_objects(image, [coco_masks.decode(annotation['segmentation']).astype(bool) for annotation in annotations],
                        np.stack([x, y, x + width, y + height], 1), [PALETTE[label] for label in labels],
                        [CLASSES[label].split()[-1] for label in labels])
