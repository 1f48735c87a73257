#!/usr/bin/env python
"""Compare effective receptive fields: ``python tools/analysis_tools/erf.py CONFIG CHECKPOINT --out-dir DIR``."""
import argparse

from mmparax.cli import ToolParser, add_measuring_arguments, measure, tool


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Measure on which pixels the middle of a feature map depends (Luo et al., 2016): the gradient of its '
        'channels by the input, averaged over images. Several models see the same images and are drawn side by side. Writes '
        'erf.png, erf.json and erf.npz. Interrupted, the same command goes on.')
    add_measuring_arguments(parser, num_images=64, batch_size=8)
    parser.add_argument('--stage', type=int, metavar='N', help="of the backbone, from 1 on (default: each model's last)")
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmparax.analysis.erf import format_erf_table, measure_erf

    measure(args, lambda setup: measure_erf(setup, args.stage), format_erf_table)


if __name__ == '__main__':
    main()
