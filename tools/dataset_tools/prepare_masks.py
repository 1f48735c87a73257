#!/usr/bin/env python
"""Own images and masks for training: ``python tools/dataset_tools/prepare_masks.py IMAGES MASKS --out-dir data/mine``."""
import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmparax.cli import ToolParser, add_out_dir_argument, tool
from mmparax.datasets.mask_config import RECIPES, compose_config
from mmparax.datasets.masks import IGNORED, MaskSet, check_target, examine, write_masks
from mmparax.errors import InputError, StorageError


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Check images and masks, split them into training and validation, write them in the layout that the '
        'configs read, and give the config. If anything is wrong, all of it is listed and nothing is written.')
    parser.add_argument('images', help='folder of images')
    parser.add_argument(
        'masks', help='folder of PNG masks with the names of the images: one channel or a palette, the number '
        'of a class in each pixel')
    add_out_dir_argument(parser, meaning='folder to create, such as data/mine')
    parser.add_argument('--val-ratio', type=float, default=0.2, metavar='SHARE',
                        help='share of the images kept for validation (default: %(default)s)')
    parser.add_argument('--classes', nargs='+', metavar='NAME',
                        help='names of the classes in the order of their values (default: called by their values)')
    parser.add_argument('--values', type=int, nargs='+', metavar='VALUE',
                        help='value of each class in the masks (default: 0, 1, 2, ... without the ignored ones)')
    parser.add_argument('--ignore', type=int, nargs='*', metavar='VALUE',
                        help=f'values in the masks that are not to be learnt (default: {IGNORED})')
    parser.add_argument('--seed', type=int, default=0, metavar='N',
                        help='which images are kept for validation (default: %(default)s)')
    images = parser.add_mutually_exclusive_group()
    images.add_argument('--copy', action='store_true', help='copy the images (default)')
    images.add_argument('--link', action='store_true', help='make symbolic links to the images instead of copies')
    parser.add_argument('--force', action='store_true', help='replace what this tool wrote to the folder before')
    parser.add_argument('--config', metavar='FILE', help='write the config to this file, such as configs/my_data.py (default: '
                        'print it)')
    parser.add_argument(
        '--model', choices=list(RECIPES), default='swin-b',
        help="of the config: the paper's Swin-B for a GPU, or the mini backbone that ships for a CPU "
        '(default: %(default)s)')
    parser.add_argument(
        '--iterations', type=int, metavar='N',
        help='of the config: training iterations (default: ' + ', '.join(f'{steps} for {name}'
                                                                         for name, (_, steps, _) in RECIPES.items()) + ')')
    return parser


def make_table(found: MaskSet) -> Table:
    """What the masks hold, a class a line."""
    counts = {split: len(pairs) for split, pairs in found.pairs.items()}
    table = Table(title=f'{counts["training"]} training and {counts["validation"]} validation images')
    for heading in ('value', 'written', 'class', 'pixels', 'in training', 'in validation'):
        table.add_column(heading, justify='left' if heading == 'class' else 'right', no_wrap=heading != 'class')
    rows = [([value], str(number), name) for number, (name, value) in enumerate(zip(found.classes, found.values))]
    if found.ignored:
        rows.append((found.ignored, str(IGNORED), '(ignored)'))
    for values, number, name in rows:
        given = ', '.join(map(str, values[:3])) + (', …' if len(values) > 3 else '')
        table.add_row(given, number, Text(name), f'{found.compute_share(values):.2%}',
                      *(str(found.count_images(split, values)) for split in counts))
    return table


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    check_target(args.out_dir, [args.images, args.masks], args.force)
    found = examine(args.images, args.masks, args.val_ratio, args.classes, args.values, args.ignore, args.seed)
    text = compose_config(found, args.out_dir, args.config or 'configs/my_data.py', args.model, args.iterations)
    config = Path(args.config) if args.config else None
    if config is not None and config.exists() and (not config.is_file() or config.read_text(encoding='utf-8') != text):
        raise InputError(f'the config {args.config!r} exists already and is another one; nothing was written. Choose '
                         'another file or remove it.')
    write_masks(found, args.out_dir, args.link)
    console = Console(soft_wrap=True, highlight=False)
    console.print(make_table(found))
    for warning in found.list_warnings():
        console.print(f'Warning: {warning}', markup=False)
    print(f'Wrote {args.out_dir}.')
    if config is None:
        print(f'The config, for a file such as configs/my_data.py:\n\n{text}', end='')
        return
    try:
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(text, encoding='utf-8')
    except OSError as error:
        raise StorageError(f'the config {args.config!r} cannot be written: {error}.') from error
    print(f'Wrote {args.config}: python tools/doctor.py {args.config}')


if __name__ == '__main__':
    main()
