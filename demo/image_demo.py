#!/usr/bin/env python
"""Show what a model says about an image: ``python demo/image_demo.py IMAGE CONFIG CHECKPOINT --out PICTURE``."""
import argparse
import os

from rich.console import Console
from rich.table import Table

from mmparax.cli import (
    ToolParser,
    add_cfg_options_argument,
    add_device_argument,
    add_out_argument,
    load_config_quietly,
    tool,
)
from mmparax.inference.predictions import draw_prediction, load_model, predict, read_image, tabulate_prediction
from mmparax.utils.devices import resolve_device


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Segment an image, find its objects or classify it, as the config says: prints what is there and draws '
        'it into a picture.')
    parser.add_argument('image', help='image file')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_out_argument(parser, 'prediction.png', 'picture to write')
    add_device_argument(parser)
    parser.add_argument('--score-thr', type=float, default=0.3, metavar='SCORE',
                        help='leave out objects with a lower score (default: %(default)s)')
    add_cfg_options_argument(parser)
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    cfg = load_config_quietly(args)
    image = read_image(args.image)
    model = load_model(cfg, args.checkpoint, resolve_device(args.device))
    sample = predict(model, cfg, args.image, image)
    draw_prediction(model, cfg, image, sample, args.out, args.score_thr)
    headings, rows = tabulate_prediction(sample, model.dataset_meta['classes'], args.score_thr)
    table = Table(title=f'{args.image}, {image.shape[1]}x{image.shape[0]}')
    for number, heading in enumerate(headings):
        table.add_column(heading, justify='right' if number else 'left')
    for row in rows:
        table.add_row(*row)
    console = Console(soft_wrap=True, highlight=False)
    console.print(table if rows else f'{args.image}: no object with a score of {args.score_thr} or more.')
    console.print(f'Picture: {os.path.abspath(args.out)}', markup=False)


if __name__ == '__main__':
    main()
