#!/usr/bin/env python
"""Compare the features of blocks: ``python tools/analysis_tools/cka.py CONFIG CHECKPOINT --out-dir DIR``."""
import argparse

from mmparax.cli import ToolParser, add_measuring_arguments, measure, tool
from mmparax.utils.choices import POOLS


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Measure how alike the features of all blocks of a model are: linear CKA by minibatches with the unbiased '
        'estimator of HSIC. Several models see the same images and are drawn side by side; of two, the blocks of one are '
        'compared with those of the other, too. Writes cka.png and cka.json. Interrupted, the same command goes on.')
    add_measuring_arguments(parser, num_images=128, batch_size=16)
    parser.add_argument(
        '--blocks', nargs='+', metavar='NAME', help='blocks, by label (3.2, or "3.*" for the third stage) or '
        'by the name of the module (default: all)')
    parser.add_argument(
        '--pool', choices=POOLS, default='none', help='what the feature of an image is: the whole output of a '
        'block (none), or its mean over positions (default: %(default)s)')
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmparax.analysis.cka import format_cka_table, measure_cka

    measure(args, lambda setup: measure_cka(setup, args.blocks, args.pool), format_cka_table)


if __name__ == '__main__':
    main()
