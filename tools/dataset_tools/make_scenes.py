#!/usr/bin/env python
"""Synthetic scenes with ground truth for every task: ``python tools/dataset_tools/make_scenes.py --out-dir data/scenes``."""
import argparse
from pathlib import Path

from mmparax.cli import ToolParser, add_out_dir_argument, add_size_argument, end_interrupted, tool
from mmparax.errors import ParameterError, StorageError, check_seed
from mmparax.utils.choices import MIN_SCENE_SIDE

MAX_PREVIEW = 24


def build_parser() -> ToolParser:
    parser = ToolParser(description='Write synthetic scenes (digits on textured surfaces) for semantic, instance '
                        'and panoptic segmentation, and crops of them for classification.')
    add_out_dir_argument(parser, 'data/scenes', 'folder to create')
    parser.add_argument('--num-train', type=int, default=800, metavar='N',
                        help='training scenes, at least 1 (default: %(default)s)')
    parser.add_argument('--num-val', type=int, default=200, metavar='N', help='validation scenes (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='seed of the scenes (default: %(default)s)')
    add_size_argument(parser, f'height and width in pixels, each at least {MIN_SCENE_SIDE} (default: 128)', default=(128, 128))
    parser.add_argument('--force', action='store_true', help='replace other scenes in the folder')
    parser.add_argument(
        '--preview', type=int, default=0, metavar='N',
        help='also write OUT_DIR/preview.png: the first N training scenes with their ground truth, up to '
        f'{MAX_PREVIEW} (default: none)')
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmparax.datasets.synthetic.writers import write_scenes
    from mmparax.inference.scene_preview import write_preview

    check_seed('seed', args.seed)
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
        end_interrupted('no unfinished data set was left behind.')


if __name__ == '__main__':
    main()
