#!/usr/bin/env python
"""Own images and masks for training: ``python tools/dataset_tools/prepare_masks.py IMAGES MASKS --out-dir data/mine``."""
import argparse
import os
import re
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmparax.cli import ToolParser, add_out_dir_argument, add_size_argument, name_options, tool
from mmparax.datasets.drafts import check_writable, write_last
from mmparax.datasets.mask_config import RECIPES, compose_config
from mmparax.datasets.masks import IGNORED, VAL_RATIO, MaskSet, check_target, examine, write_masks
from mmparax.errors import InputError, ParameterError


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Check images and masks, split them into training and validation, write them in the layout that the '
        'configs read, and give the config. If anything is wrong, all of it is listed and nothing is written.')
    parser.add_argument('images',
                        help='folder of images, or of folders train, val and perhaps test (training, validation, train2017, ...)')
    parser.add_argument(
        'masks', help='folder of masks with the names of the images and the number of a class in each pixel (PNG, BMP, TIFF or '
        'GIF; one channel or a palette), or of folders with the names of those of the images')
    add_out_dir_argument(parser, meaning='folder to create, such as data/mine')
    masks = parser.add_argument_group('what the masks mean')
    masks.add_argument('--mask-suffix', default='', metavar='SUFFIX',
                       help='what masks have behind the names of the images, such as _L or _L.png (default: nothing)')
    masks.add_argument('--classes', nargs='+', metavar='NAME',
                       help='names of the classes in the order of their values (default: called by their values)')
    masks.add_argument('--values', type=int, nargs='+', metavar='VALUE',
                       help='value of each class in the masks (default: 0, 1, 2, ... without the ignored ones)')
    masks.add_argument('--ignore', type=_parse_value, nargs='*', metavar='VALUE',
                       help=f'values, or names of classes, that are not to be learnt (default: {IGNORED})')
    masks.add_argument(
        '--colours', metavar='FILE',
        help='the masks are colours: this file names the class of each, in lines "R G B NAME" or "NAME R G B", '
        'CSV with headings, or JSON')
    split = parser.add_argument_group('what is trained and what is validated on')
    split.add_argument('--splits', nargs='+', metavar='LIST',
                       help='two or three text files with the name of an image a line: training, validation, test')
    split.add_argument('--val-ratio', type=float, metavar='SHARE',
                       help=f'share of the images kept for validation, without a ready split (default: {VAL_RATIO})')
    split.add_argument('--seed', type=int, default=0, metavar='N',
                       help='which images are kept for validation; also the seed in the config (default: %(default)s)')
    images = parser.add_mutually_exclusive_group()
    images.add_argument('--copy', action='store_true', help='copy the images (default)')
    images.add_argument('--link', action='store_true', help='make symbolic links to the images instead of copies')
    parser.add_argument('--force', action='store_true', help='replace what this tool wrote to the folder before')
    config = parser.add_argument_group('the config')
    config.add_argument('--config', metavar='FILE', help='write the config to this file, such as configs/my_data.py (default: '
                        'print it)')
    config.add_argument('--model', choices=list(RECIPES), default='swin-b',
                        help="the paper's Swin-B for a GPU, or the mini backbone that ships for a CPU "
                        '(default: %(default)s)')
    config.add_argument(
        '--iterations', type=int, metavar='N',
        help='training iterations (default: ' + ', '.join(f'{recipe.iterations} for {name}'
                                                          for name, recipe in RECIPES.items()) + ')')
    add_size_argument(
        config, 'height and width that images are scaled to fit in (default: as most images are, with a short side of '
        + ', '.join(f'{recipe.size[0]} to {recipe.size[1]} for {name}' for name, recipe in RECIPES.items()) + ')')
    add_size_argument(
        config, 'height and width that training cuts out of them (default: '
        + ', '.join(f'{recipe.crop} for {name}' for name, recipe in RECIPES.items()) + ', or what fits)', flag='--crop')
    return parser


def _parse_value(text: str) -> int | str:
    return int(text) if re.fullmatch(r'-?\d+', text) else text


def make_table(found: MaskSet) -> Table:
    """What the masks hold, a class a line."""
    counts = {split: len(pairs) for split, pairs in found.pairs.items()}
    numbers = [f'{count} {split}' for split, count in counts.items()]
    table = Table(title=f'{", ".join(numbers[:-1])} and {numbers[-1]} images')
    for heading in ('value' if found.colours is None else 'colour', 'written', 'class', 'pixels', *counts):
        table.add_column(heading, justify='left' if heading == 'class' else 'right', no_wrap=heading != 'class')
    rows = [([value], str(number), name) for number, (name, value) in enumerate(zip(found.classes, found.values))]
    if found.ignored:
        rows.append((found.ignored, str(IGNORED), '(ignored)'))
    for values, number, name in rows:
        given = ', '.join(map(found.describe_value, values[:3])) + (', …' if len(values) > 3 else '')
        table.add_row(given, number, Text(name), f'{found.compute_share(values):.2%}',
                      *(str(found.count_images(split, values)) for split in counts))
    return table


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    sources = [args.images, args.masks, *(args.splits or ()), *([args.colours] if args.colours else ())]
    check_target(args.out_dir, sources, args.force)
    config = Path(args.config) if args.config else None
    if config is not None:
        check_writable('config', config)
    try:
        found = examine(args.images, args.masks, args.val_ratio, args.classes, args.values, args.ignore, args.seed,
                        splits=args.splits, mask_suffix=args.mask_suffix, colours=args.colours)
    except ParameterError:
        raise
    except InputError as error:
        raise InputError(name_options(str(error), ['ignore', 'values', 'colours', 'mask_suffix'])) from error
    text = compose_config(found, args.out_dir, args.config or 'configs/my_data.py', args.model, args.iterations, args.size,
                          args.crop)
    if config is not None and os.path.exists(config) and not (config.is_file() and config.read_bytes() == text.encode()):
        raise InputError(f'the config {args.config!r} exists already and is another one; nothing was written. Choose '
                         'another file or remove it.')
    with write_last(config, text, inside=args.out_dir):
        write_masks(found, args.out_dir, args.link)
    console = Console(soft_wrap=True, highlight=False)
    console.print(make_table(found))
    for warning in found.list_warnings():
        console.print(f'Warning: {warning}', markup=False)
    print(f'Wrote {args.out_dir}.')
    if config is None:
        print(f'The config, for a file such as configs/my_data.py:\n\n{text}', end='')
        return
    print(f'Wrote {args.config}: python tools/doctor.py {args.config}')


if __name__ == '__main__':
    main()
