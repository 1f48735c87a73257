#!/usr/bin/env python
"""Show what a model says about an image: ``python demo/image_demo.py IMAGE CONFIG CHECKPOINT --out-file PICTURE``."""
import argparse
import os

from mmengine.device import get_device
from rich.console import Console
from rich.table import Table

from mmparax.cli import add_config_options, quiet_config, tool
from mmparax.inference.predictions import draw_prediction, load_model, predict, read_image, tabulate_prediction


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Segment an image, find its objects or classify it, as the config says: prints what is there and draws '
        'it into a picture.')
    parser.add_argument('image', help='image file')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out-file', default='prediction.png', metavar='PICTURE',
                        help='picture to write (default: %(default)s)')
    parser.add_argument('--device', default=get_device(), help='such as cpu or cuda:0 (default here: %(default)s)')
    parser.add_argument('--score-thr', type=float, default=0.3, metavar='SCORE',
                        help='leave out objects with a lower score (default: %(default)s)')
    add_config_options(parser)
    return parser.parse_args()


@tool
def main() -> None:
    args = parse_args()
    cfg = quiet_config(args)
    image = read_image(args.image)
    model = load_model(cfg, args.checkpoint, args.device)
    sample = predict(model, cfg, args.image, image)
    draw_prediction(model, cfg, image, sample, args.out_file, args.score_thr)
    headings, rows = tabulate_prediction(sample, model.dataset_meta['classes'], args.score_thr)
    table = Table(title=f'{args.image}, {image.shape[1]}x{image.shape[0]}')
    for number, heading in enumerate(headings):
        table.add_column(heading, justify='right' if number else 'left')
    for row in rows:
        table.add_row(*row)
    console = Console(soft_wrap=True, highlight=False)
    console.print(table if rows else f'{args.image}: no object with a score of {args.score_thr} or more.')
    console.print(f'Picture: {os.path.abspath(args.out_file)}', markup=False)


if __name__ == '__main__':
    main()
