#!/usr/bin/env python
"""Synthetic scenes with ground truth for every task: ``python tools/dataset_tools/make_scenes.py --out-dir data/scenes``."""
import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from pycocotools import mask as coco_masks

from mmparax.cli import ToolParser, add_out_dir_argument, add_size_argument, tool
from mmparax.datasets.synthetic.scenes import CLASSES, MIN_SIDE, PALETTE
from mmparax.datasets.synthetic.writers import FOLDERS, write_scenes
from mmparax.errors import ParameterError, StorageError
from mmparax.inference.pictures import draw_objects, outline

MAX_PREVIEW = 24
CROP_COLUMNS = 5  # two lines of crops a scene: it has at most 5 digits and 4 surfaces


def build_parser() -> ToolParser:
    parser = ToolParser(description='Write synthetic scenes (digits on textured surfaces) for semantic, instance '
                        'and panoptic segmentation, and crops of them for classification.')
    add_out_dir_argument(parser, 'data/scenes', 'folder to create')
    parser.add_argument('--num-train', type=int, default=800, metavar='N',
                        help='training scenes, at least 1 (default: %(default)s)')
    parser.add_argument('--num-val', type=int, default=200, metavar='N', help='validation scenes (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='seed of the scenes (default: %(default)s)')
    add_size_argument(parser, f'height and width in pixels, each at least {MIN_SIDE} (default: 128)', default=(128, 128))
    parser.add_argument('--force', action='store_true', help='replace other scenes in the folder')
    parser.add_argument(
        '--preview', type=int, default=0, metavar='N',
        help='also write OUT_DIR/preview.png: the first N training scenes with their ground truth, up to '
        f'{MAX_PREVIEW} (default: none)')
    return parser


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


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    if not 0 <= args.preview <= MAX_PREVIEW:
        raise ParameterError('preview', args.preview, f'it must be 0 to {MAX_PREVIEW}')
    try:
        if write_scenes(args.out_dir, args.num_train, args.num_val, args.seed, args.size, overwrite=args.force):
            print(f'Wrote {args.num_train} training and {args.num_val} validation scenes to {args.out_dir}.')
        if args.preview:
            write_preview(Path(args.out_dir), args.preview)
            print(f'Wrote {Path(args.out_dir) / "preview.png"}.')
    except OSError as error:
        raise StorageError(f'{args.out_dir!r} cannot be written to: {error}. Choose another folder.') from error
    except KeyboardInterrupt:
        print('\nInterrupted: no unfinished data set was left behind.', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
