"""Write the painted scenes in ADE20K's layout: ``python tools/dataset_tools/make_scenes.py --out data/scenes``."""
import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mmparax.datasets.scenes import CLASSES, MIN_SIDE, PALETTE, SceneGenerator, write_ade20k

MAX_PREVIEW = 64
PAIRS_PER_ROW = 4


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description='Write painted scenes (digits on textured surfaces) with label maps.')
    parser.add_argument('--out', default='data/scenes', help='folder to create (default: %(default)s)')
    parser.add_argument('--train', type=int, default=800, help='training scenes, at least 1 (default: %(default)s)')
    parser.add_argument('--val', type=int, default=200, help='validation scenes (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the scenes (default: %(default)s)')
    parser.add_argument('--size', type=int, nargs='+', default=[128], metavar='PIXELS',
                        help=f'height [width] in pixels, each at least {MIN_SIDE} (default: 128)')
    parser.add_argument('--force', action='store_true', help='replace other scenes in the folder')
    parser.add_argument('--preview', type=int, default=0, metavar='N',
                        help=f'also write OUT/preview.png: N training scenes beside their ground truth, up to '
                        f'{MAX_PREVIEW} (default: none)')
    args = parser.parse_args(argv)
    if len(args.size) > 2:
        parser.error(f'--size takes a height and at most a width, not {len(args.size)} numbers.')
    if not 0 <= args.preview <= MAX_PREVIEW:
        parser.error(f'--preview is {args.preview}; it must be 0 to {MAX_PREVIEW}.')
    return args


def write_preview(path, generator, count):
    """Draw scenes and their class maps side by side, with a legend.

    Args:
        path (Path): PNG file to write.
        generator (SceneGenerator): Source of the scenes.
        count (int): Number of scenes, at least 1.
    """
    palette = np.array(PALETTE, np.uint8)
    columns = min(count, PAIRS_PER_ROW)
    rows = -(-count // columns)
    figure = Figure(figsize=(4 * columns, 2.2 * rows + 0.8))  # not pyplot: needs no display
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis('off')
    for index, axis in zip(range(count), axes.flat):
        scene = generator.scene(index)
        axis.imshow(np.concatenate([scene.image, palette[scene.semantic()]], 1))
        axis.set_title(f'scene {index}', fontsize=8, pad=2)
    patches = [Patch(facecolor=np.array(color) / 255, edgecolor='black', linewidth=0.5) for color in PALETTE]
    figure.tight_layout(rect=(0, 0.8 / figure.get_figheight(), 1, 1), h_pad=1.5)
    figure.legend(patches, CLASSES, loc='lower center', ncol=4 if columns == 1 else 8, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def main(argv=None):
    args = parse_args(argv)
    size = (args.size[0], args.size[-1])
    try:
        if write_ade20k(args.out, args.train, args.val, args.seed, size, force=args.force):
            print(f'Wrote {args.train} training and {args.val} validation scenes to {args.out}.')
        if args.preview:
            path = Path(args.out) / 'preview.png'
            write_preview(path, SceneGenerator('train', args.seed, size), args.preview)
            print(f'Wrote {path}.')
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
