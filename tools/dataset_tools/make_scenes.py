"""Write synthetic scenes with ground truth for every task: ``python tools/dataset_tools/make_scenes.py --out data/scenes``."""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from pycocotools import mask as coco_masks

from mmparax.datasets.synthetic.scenes import CLASSES, MIN_SIDE, PALETTE
from mmparax.datasets.synthetic.writers import FOLDERS, write_scenes
from mmparax.inference.pictures import draw_objects, outline

MAX_PREVIEW = 24
CROP_COLUMNS = 5  # two lines of crops a scene: it has at most 5 digits and 4 surfaces


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description='Write synthetic scenes (digits on textured surfaces) for semantic, instance '
                                     'and panoptic segmentation, and crops of them for classification.')
    parser.add_argument('--out', default='data/scenes', help='folder to create (default: %(default)s)')
    parser.add_argument('--train', type=int, default=800, help='training scenes, at least 1 (default: %(default)s)')
    parser.add_argument('--val', type=int, default=200, help='validation scenes (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the scenes (default: %(default)s)')
    parser.add_argument('--size', type=int, nargs='+', default=[128], metavar='PIXELS',
                        help=f'height [width] in pixels, each at least {MIN_SIDE} (default: 128)')
    parser.add_argument('--force', action='store_true', help='replace other scenes in the folder')
    parser.add_argument('--preview', type=int, default=0, metavar='N',
                        help=f'also write OUT/preview.png: the first N training scenes with their ground truth, up to '
                        f'{MAX_PREVIEW} (default: none)')
    args = parser.parse_args(argv)
    if len(args.size) > 2:
        parser.error(f'--size takes a height and at most a width, not {len(args.size)} numbers.')
    if not 0 <= args.preview <= MAX_PREVIEW:
        parser.error(f'--preview is {args.preview}; it must be 0 to {MAX_PREVIEW}.')
    return args


def write_preview(root, count):
    """Draw training scenes as their files tell: image, class map, instances, panoptic segments and crops, a scene a line.

    Args:
        root (Path): Folder of the scenes; preview.png is written to it.
        count (int): Number of scenes, at least 1.
    """
    folder = FOLDERS['train']
    annotations = json.loads((root / 'annotations' / f'instances_{folder}.json').read_text(encoding='utf-8'))
    images = annotations['images'][:count]
    figure = Figure(figsize=(15, 2.3 * len(images) + 0.9))  # not pyplot: needs no display
    height = figure.get_figheight()
    lines = figure.add_gridspec(len(images), 5, width_ratios=[1, 1, 1, 1, 2.4], left=0.01, right=0.99, wspace=0.04,
                                hspace=0.12, top=1 - 0.25 / height, bottom=0.65 / height)
    for line, info in enumerate(images):
        name = Path(info['file_name']).stem
        image = _read(root / 'images' / folder / info['file_name'])
        objects = [each for each in annotations['annotations'] if each['image_id'] == info['id']]
        segments = _read(root / 'annotations' / f'panoptic_{folder}' / f'{name}.png')
        panels = [(name, image),
                  ('classes', np.array(PALETTE, np.uint8)[_read(root / 'annotations' / folder / f'{name}.png') - 1]),
                  ('instances', _objects(image, objects)),
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


def _read(path):
    return np.asarray(Image.open(path))


def _show(axis, picture, title):
    axis.imshow(picture, interpolation='nearest')
    axis.set_title(title, fontsize=8, pad=2)
    axis.axis('off')


def _objects(image, annotations):
    """The masks, boxes and class names of one image, drawn on it."""
    labels = [annotation['category_id'] - 1 for annotation in annotations]
    x, y, width, height = np.array([annotation['bbox'] for annotation in annotations]).reshape(-1, 4).T
    return draw_objects(image, [coco_masks.decode(annotation['segmentation']).astype(bool) for annotation in annotations],
                        np.stack([x, y, x + width, y + height], 1), [PALETTE[label] for label in labels],
                        [CLASSES[label].split()[-1] for label in labels])


def main(argv=None):
    args = parse_args(argv)
    size = (args.size[0], args.size[-1])
    try:
        if write_scenes(args.out, args.train, args.val, args.seed, size, force=args.force):
            print(f'Wrote {args.train} training and {args.val} validation scenes to {args.out}.')
        if args.preview:
            write_preview(Path(args.out), args.preview)
            print(f'Wrote {Path(args.out) / "preview.png"}.')
    except ValueError as error:
        print(f'make_scenes: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        print(f'make_scenes: cannot write to {args.out}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('make_scenes: interrupted; no unfinished data set was left behind.', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
