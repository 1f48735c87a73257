#!/usr/bin/env python
"""Shapes of LabelMe or CVAT, as masks or COCO: ``python tools/dataset_tools/polygons2masks.py SOURCE --out-dir data/own``."""
import argparse
import shlex

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmparax.cli import ToolParser, add_image_dir_argument, add_out_dir_argument, name_options, tool
from mmparax.datasets.masks import VAL_RATIO, check_target
from mmparax.datasets.shapes.collection import ShapeSet, read_shapes
from mmparax.datasets.shapes.writing import FORMAT, name_mask_classes, write_coco, write_shape_masks
from mmparax.errors import InputError, ParameterError, check_int, check_number


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Write polygons, boxes, circles and masks of LabelMe or CVAT as masks for prepare_masks.py, or as '
        "COCO's annotations. Where shapes overlap in a mask, later ones lie above earlier ones, and a higher z_order of CVAT "
        'above a lower one. If anything is wrong, all of it is listed and nothing is written.')
    parser.add_argument(
        'source', help="folder of LabelMe's JSON files; or annotations.xml of CVAT (\"CVAT for images\"), or the folder "
        'with it')
    add_out_dir_argument(parser, meaning='folder to create, such as data/shapes')
    parser.add_argument('--format', choices=['masks', 'coco'], default='masks',
                        help='masks for semantic segmentation, or COCO for objects (default: %(default)s)')
    add_image_dir_argument(parser, 'where the images are (default: where the annotations say)')
    parser.add_argument('--classes', nargs='+', metavar='LABEL',
                        help="labels in the order that they are to have (default: CVAT's order, or the alphabet's)")
    parser.add_argument('--ignore', nargs='+', default=[], metavar='LABEL',
                        help='labels that are not to be learnt: 255 in a mask')
    parser.add_argument('--skip', nargs='+', default=[], metavar='KIND',
                        help='kinds of shapes to leave out, such as polyline or points')
    parser.add_argument('--clip', action='store_true', help='cut points outside the image off instead of refusing them')
    parser.add_argument('--unlabelled', choices=['background', 'ignore'], default='background',
                        help='what pixels without a shape are in a mask: the class "background", or 255 (default: %(default)s)')
    parser.add_argument('--val-ratio', type=float, metavar='SHARE',
                        help=f'of COCO: share of the images kept for validation (default: {VAL_RATIO})')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of COCO: which ones (default: %(default)s)')
    images = parser.add_mutually_exclusive_group()
    images.add_argument('--copy', action='store_true', help='copy the images (default)')
    images.add_argument('--link', action='store_true', help='make symbolic links to the images instead of copies')
    parser.add_argument('--force', action='store_true', help='replace what this tool wrote to the folder before')
    return parser


def make_table(found: ShapeSet) -> Table:
    """Labels with their numbers of shapes, a line each."""
    table = Table(title=f'{len(found.images)} images')
    for heading in ('label', 'shapes', 'in images'):
        table.add_column(heading, justify='left' if heading == 'label' else 'right')
    for label in [*found.classes, *found.ignored]:
        shapes, images = found.count(label)
        if shapes or label in found.classes:
            table.add_row(Text(label if label in found.classes else f'{label} (ignored)'), str(shapes), str(images))
    return table


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    check_int('seed', args.seed, 0)
    if args.val_ratio is not None and not 0 < check_number('val_ratio', args.val_ratio) < 1:
        raise ParameterError('val_ratio', args.val_ratio, 'it must be between 0 and 1, without both')
    if args.val_ratio is not None and args.format == 'masks':
        raise ParameterError('val_ratio', args.val_ratio, 'prepare_masks.py splits masks', 'Leave it out, or ask for COCO.')
    check_target(args.out_dir, [args.source, *([args.image_dir] if args.image_dir else ())], args.force, FORMAT,
                 'converted shapes')
    try:
        found = read_shapes(args.source, args.image_dir, args.classes, args.ignore, args.skip, args.clip)
    except ParameterError:
        raise
    except InputError as error:
        raise InputError(name_options(str(error), ['ignore', 'skip', 'image_dir', 'clip'])) from error
    background = 'background' if args.unlabelled == 'background' else None
    if args.format == 'masks':
        empty = write_shape_masks(found, args.out_dir, background, args.link)
    else:
        counts, empty = write_coco(found, args.out_dir, VAL_RATIO if args.val_ratio is None else args.val_ratio, args.seed,
                                   args.link)
    Console(soft_wrap=True, highlight=False).print(make_table(found))
    if found.unlabelled:
        print(f'Warning: {found.unlabelled} image(s) have no annotations and are left out.')
    if empty:
        print(f'Warning: {empty} shape(s) cover no pixel and are left out.')
    print(f'Wrote {args.out_dir}.')
    if args.format == 'masks':
        names = shlex.join(name_mask_classes(found, background))
        print(f'Next: python tools/dataset_tools/prepare_masks.py {args.out_dir}/images {args.out_dir}/masks --out-dir data/mine '
              f'--classes {names}')
        return
    for split, (images, objects) in counts.items():
        print(f'{split}: {images} images, {objects} objects in {args.out_dir}/annotations/{split}.json')
    print(f'Name the classes in this order: {tuple(found.classes)!r}')


if __name__ == '__main__':
    main()
