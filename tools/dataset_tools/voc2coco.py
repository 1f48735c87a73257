#!/usr/bin/env python
"""Boxes from Pascal VOC's layout to COCO's: ``python tools/dataset_tools/voc2coco.py VOC --out-dir data/mine/annotations``."""
import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmparax.cli import ToolParser, add_out_dir_argument, tool
from mmparax.datasets.voc import DIFFICULT, IMAGES, USUAL_LISTS, BoxSet, check_targets, find_lists, read_voc, write_coco
from mmparax.errors import MissingFileError


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Check boxes in the layout of Pascal VOC (JPEGImages, Annotations/NAME.xml, ImageSets/Main/LIST.txt), '
        "write a file in COCO's format for each list. If anything is wrong, all of it is listed and nothing is written.")
    parser.add_argument('root', help='folder in the layout of Pascal VOC')
    add_out_dir_argument(parser, meaning='folder of the written files LIST.json, such as data/mine/annotations')
    parser.add_argument('--splits', nargs='+', metavar='LIST',
                        help=f'lists to convert (default: {", ".join(USUAL_LISTS)}, as far as they exist)')
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument('--classes', nargs='+', metavar='NAME',
                         help='names of the classes in the order of their numbers (default: all that occur in any list, sorted)')
    classes.add_argument('--class-file', metavar='FILE', help='the same from a file, one name a line')
    parser.add_argument(
        '--difficult', choices=DIFFICULT, default=DIFFICULT[0],
        help='objects that VOC calls difficult: not counted in training and metrics (iscrowd: 1), like the others, or left out '
        '(default: %(default)s)')
    parser.add_argument('--zero-based', action='store_true',
                        help="coordinates count from 0 and the last pixel is outside; VOC's count from 1 and it is inside")
    parser.add_argument('--force', action='store_true', help='replace what this tool wrote to the folder before')
    return parser


def make_table(found: BoxSet) -> Table:
    """The boxes of each class in each list."""
    table = Table(title='boxes (images)')
    table.add_column('class')
    for split, images in found.images.items():
        table.add_column(f'{split}, {len(images)} images', justify='right')
    for name in found.classes:
        table.add_row(Text(name), *('{} ({})'.format(*found.count(split, name)) for split in found.images))
    return table


def read_names(path: str) -> list[str]:
    """The lines of a file of class names."""
    try:
        return [line.strip() for line in Path(path).read_text(encoding='utf-8-sig').splitlines() if line.strip()]
    except OSError as error:
        raise MissingFileError(f'the file {path!r} of class names cannot be read: {error}.') from error


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    classes = read_names(args.class_file) if args.class_file else args.classes
    check_targets(args.out_dir, list(find_lists(args.root, args.splits)), args.force)
    found = read_voc(args.root, args.splits, classes, args.zero_based)
    paths = write_coco(found, args.out_dir, args.difficult, args.force)
    console = Console(soft_wrap=True, highlight=False)
    console.print(make_table(found))
    for warning in found.problems.warnings:
        console.print(f'Warning: {warning.summarize().replace("zero_based=True", "--zero-based")}', markup=False)
    for path in paths:
        print(f'Wrote {path}')
    print(f'The images stay in {Path(args.root, IMAGES)}; classes={tuple(found.classes)}')


if __name__ == '__main__':
    main()
