#!/usr/bin/env python
"""Show what a model says about images: ``python demo/image_demo.py CONFIG CHECKPOINT IMAGE... --out-dir DIR``."""
import argparse
import sys
from pathlib import Path

from mmparax.cli import ToolParser, add_cfg_options_argument, add_device_argument, load_config_quietly, tool
from mmparax.errors import ParameterError
from mmparax.utils.images import IMAGE_ENDINGS

PICTURE, FOLDER = 'prediction.png', 'predictions'


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Segment images, find their objects or classify them, as the config says: prints what is there and draws '
        'it into pictures.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='+', metavar='image', help='image file')
    parser.add_argument('--out', metavar='FILE', help=f'picture to write, of a single image (default: {PICTURE})')
    parser.add_argument(
        '--out-dir', metavar='DIR', help='folder of the pictures, which are called like their images (default, '
        f'of several images: {FOLDER})')
    add_device_argument(parser)
    parser.add_argument('--score-thr', type=float, default=0.3, metavar='SCORE',
                        help='leave out objects with a lower score (default: %(default)s)')
    add_cfg_options_argument(parser)
    return parser


def sort_arguments(args: argparse.Namespace) -> None:
    """Understand OpenMMLab's order, IMAGE CONFIG CHECKPOINT, and say so."""
    if len(args.images) == 1 and Path(args.config).suffix.lower() in IMAGE_ENDINGS:
        args.config, args.checkpoint, args.images = args.checkpoint, args.images[0], [args.config]
        print(
            'Warning: read as IMAGE CONFIG CHECKPOINT, which is the order of OpenMMLab; here, as in all tools of mmparax, it is '
            'CONFIG CHECKPOINT IMAGE...', file=sys.stderr)


def choose_pictures(args: argparse.Namespace) -> list[Path]:
    """The picture of each image; raises ParameterError or StorageError for a place that cannot be written to."""
    from mmparax.inference.picture_hook import name_pictures
    from mmparax.utils.storage import check_writable

    if args.out is not None and args.out_dir is not None:
        raise ParameterError('out', args.out, 'it is given beside --out-dir', 'Give one of the two.')
    if args.out is not None and len(args.images) > 1:
        raise ParameterError('out', args.out, f'it is one file, and there are {len(args.images)} images', 'Give --out-dir.')
    if args.out_dir is None and len(args.images) == 1:
        out = Path(args.out or PICTURE)
        if out.suffix.lower() not in IMAGE_ENDINGS or out.is_dir():
            raise ParameterError('out', str(out), f'it must be a file whose name ends in {", ".join(IMAGE_ENDINGS)}')
        check_writable(out.parent, 'Choose another place.')
        return [out]
    folder = Path(args.out_dir or FOLDER)
    check_writable(folder)
    names = name_pictures(args.images)
    return [folder / f'{names[image]}.png' for image in args.images]


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    sort_arguments(args)

    from rich.console import Console
    from rich.table import Table

    from mmparax.inference.drawing import draw_sample
    from mmparax.inference.picture_hook import encode_picture
    from mmparax.inference.predictions import load_model, predict, read_image, tabulate_prediction
    from mmparax.utils.devices import resolve_device
    from mmparax.utils.storage import write

    cfg = load_config_quietly(args)
    images = [read_image(path) for path in args.images]
    pictures = choose_pictures(args)
    model = load_model(cfg, args.checkpoint, resolve_device(args.device))
    meta = model.dataset_meta
    console = Console(soft_wrap=True, highlight=False)
    for path, image, out in zip(args.images, images, pictures):
        sample = predict(model, cfg, path, image)
        drawn = draw_sample(image, sample, meta['classes'], meta['palette'], args.score_thr)
        write(out, encode_picture(drawn, out.suffix.lower()), 'Make room, or choose another place.')
        headings, rows = tabulate_prediction(sample, meta['classes'], args.score_thr)
        table = Table(title=f'{path}, {image.shape[1]}x{image.shape[0]}')
        for number, heading in enumerate(headings):
            table.add_column(heading, justify='right' if number else 'left')
        for row in rows:
            table.add_row(*row)
        console.print(table if rows else f'{path}: no object with a score of {args.score_thr} or more.')
        console.print(f'Picture: {out.resolve()}', markup=False)


if __name__ == '__main__':
    main()
