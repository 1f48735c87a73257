#!/usr/bin/env python
"""Which experts the routers of AdaRoute choose: ``python tools/analysis_tools/routing.py CONFIG CHECKPOINT --out-dir DIR``."""
import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mmparax.cli import (
    ToolParser,
    add_batch_size_argument,
    add_cfg_options_argument,
    add_device_argument,
    add_num_images_argument,
    add_out_dir_argument,
    explain_interrupt,
    load_config_quietly,
    tool,
)
from mmparax.errors import check_int

if TYPE_CHECKING:
    from mmparax.analysis.routing.measure import RoutingMeasurement


def build_parser() -> ToolParser:
    parser = ToolParser(
        description="Look at the gates of AdaRoute's routers over the validation images of a config: how much each expert is "
        'used, whether the choice depends on the image, and which images and classes choose which expert. Writes '
        'routing.json, routing_top_images.csv and pictures. After an interruption the same command goes on.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_out_dir_argument(parser)
    add_num_images_argument(parser, None, 'look at N images, evenly spread over the data (default: all)')
    add_batch_size_argument(parser, 8)
    add_device_argument(parser)
    parser.add_argument(
        '--adapter', metavar='NAME', help='draw the top images of this adapter, such as '
        'stage1/block01/after_token_mixer (default: the one whose gates tell most of the image)')
    parser.add_argument('--classes', nargs='+', default=[], metavar='CLASS',
                        help='draw layers x experts for the images with these classes, too')
    add_cfg_options_argument(parser)
    return parser


def draw(run: 'RoutingMeasurement', result: dict, out: Path, args: argparse.Namespace) -> None:
    """Write the pictures."""
    from mmparax.analysis.routing.pictures import (
        draw_class_layers,
        draw_classes,
        draw_entropy,
        draw_top_images,
        draw_usage,
        find_most_dependent,
    )

    draw_usage(result, out / 'routing_usage.png')
    draw_entropy(result, out / 'routing_entropy.png')
    if 'classes' in result:
        draw_classes(result, out / 'routing_classes.png')
    for name in args.classes if 'classes' in result else ():
        draw_class_layers(result, name, out / f'routing_class_{re.sub("[^A-Za-z0-9]+", "-", name)}.png')
    adapter, group = find_most_dependent(result, args.adapter)
    draw_top_images(result, adapter, group, run.get_picture, out / 'routing_images.png')


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmparax.analysis.measuring import AGAIN, write_json
    from mmparax.analysis.routing.measure import measure_routing
    from mmparax.analysis.routing.pictures import explain_class
    from mmparax.analysis.routing.result import build_result, format_routing_table, format_top_images_csv
    from mmparax.utils.devices import resolve_device
    from mmparax.utils.storage import write

    for name in ('num_images', 'batch_size'):
        if getattr(args, name) is not None:
            check_int(name, getattr(args, name))
    device, out = resolve_device(args.device), Path(args.out_dir)

    def check(run: 'RoutingMeasurement') -> None:
        if args.adapter is not None:
            run.check_adapter(args.adapter)
        for name in args.classes:
            run.check_class(name)

    with explain_interrupt():
        run, source = measure_routing(load_config_quietly(args), args.checkpoint, out, device, args.num_images, args.batch_size,
                                      check)
    result = dict(source, config=args.config, **build_result(run, args.classes))
    write_json(out / 'routing.json', result)
    write(out / 'routing_top_images.csv', format_top_images_csv(result).encode(), AGAIN)
    draw(run, result, out, args)
    print(format_routing_table(result))
    for text in [*result['warnings'], *(explain_class(result, name) for name in args.classes if 'classes' in result)]:
        if text:
            print(f'Warning: {text}')
    if not result['summary']['groups_with_a_choice']:
        print('Every router has a single expert (M = 1): there is no choice, so there is nothing to warn of.')
    if any(adapter['activation'] == 'sigmoid' for adapter in result['adapters']):
        print('The gates are sigmoids: usage and entropies are of the gates divided by their sum.')
    print(f'Written to {out}: routing.json, routing_top_images.csv and pictures.')


if __name__ == '__main__':
    main()
