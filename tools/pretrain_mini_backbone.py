#!/usr/bin/env python
"""Pre-train a mini backbone by classifying rendered letters and shapes: ``python tools/pretrain_mini_backbone.py swin_mini``.

The result is the frozen base of the quickstart. Its images share no class and no surface with the quickstart's scenes,
as ImageNet's share none with a user's own. Written: OUT_DIR/NAME_glyphs.safetensors and the log of the run beside it.
"""
import argparse
import math

from mmparax.cli import ToolParser, add_batch_size_argument, add_out_dir_argument, tool
from mmparax.errors import ParameterError, check_int, check_seed
from mmparax.utils.choices import MINI_BACKBONES


def build_parser() -> ToolParser:
    parser = ToolParser(description=__doc__.splitlines()[0])
    parser.add_argument('name', choices=MINI_BACKBONES, help='backbone')
    add_out_dir_argument(parser, 'work_dirs/mini_backbones')
    parser.add_argument('--iterations', type=int, default=2600, metavar='N', help='training iterations (default: %(default)s)')
    add_batch_size_argument(parser, 64, 'images a step')
    parser.add_argument('--lr', type=float, default=1.2e-3, help='peak learning rate of AdamW (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='seed of the training (default: %(default)s)')
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmparax.reproduce.mini_backbones import pretrain

    for name in ('iterations', 'batch_size'):
        check_int(name, getattr(args, name))
    check_seed('seed', args.seed)
    if not (args.lr > 0 and math.isfinite(args.lr)):
        raise ParameterError('lr', args.lr, 'it must be a number above 0')
    pretrain(args.name, args.out_dir, args.iterations, args.batch_size, args.lr, args.seed)


if __name__ == '__main__':
    main()
