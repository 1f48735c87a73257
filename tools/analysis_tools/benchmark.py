#!/usr/bin/env python
"""Time training steps of adapted backbones beside full fine-tuning: ``python tools/analysis_tools/benchmark.py``."""
import argparse
import os

from mmparax.cli import ToolParser, add_batch_size_argument, add_device_argument, add_out_dir_argument, add_size_argument, tool
from mmparax.utils.choices import BACKEND_VARIABLE, BACKENDS, BENCHMARK_BACKBONES, TIMED_PRECISIONS

METHODS = ['full', 'adaroute', 'plain-adaroute', 'plain-mona', 'frozen']
PRESETS = {
    'cpu': dict(backbone=['swin-b', 'convnext-b'], size=(320, 320), batch_size=1, precision=['fp32'], device='cpu', rounds=4,
                minutes=3.6, methods=METHODS, efficient_attention='both'),
    'table11': dict(
        backbone=['swin-l'], size=(1280, 800), batch_size=4, precision=['fp16'], device='cuda', rounds=20, warmup=5,
        steps_per_turn=5, methods=[
            'full', 'lora', 'adaptformer', 'lorand', 'mona', 'adaroute-no-conv', 'adaroute', 'plain-adaroute', 'plain-mona',
            'frozen'
        ], efficient_attention='both'),
}


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Time the training step (forward, backward, optimizer) and the inference of a backbone with each method '
        'on random data, side by side in one run, and measure memory. "full" is the toolbox\'s own backbone in which '
        'every parameter is trainable; plain-adaroute and plain-mona are the two written plainly, for comparison. Sizes are '
        'those of the shipped configs; a method without a config for the backbone has its defaults.')
    parser.add_argument(
        '--preset', choices=list(PRESETS), help="settings that other options change. cpu: Swin-B and "
        "ConvNeXt-B at 320x320, under 5 minutes on 2 cores; table11: the paper's Table 11, for a GPU")
    what = parser.add_argument_group('what')
    what.add_argument('--backbone', nargs='+', default=['swin-b'], metavar='NAME',
                      help=f'{", ".join(BENCHMARK_BACKBONES)} (default: swin-b)')
    what.add_argument(
        '--methods', nargs='+', metavar='NAME', default=METHODS,
        help='full, each method of mmparax.adapters, and variants such as plain-adaroute; an unknown name lists '
        f'all (default: {" ".join(METHODS)})')
    add_size_argument(what, 'height and width in pixels (default: 320 320; ViT: its own)')
    add_batch_size_argument(what, 1, 'images in a step')
    what.add_argument('--precision', nargs='+', default=['fp32'], choices=TIMED_PRECISIONS,
                      help='fp16 and bf16 by automatic mixed precision (default: fp32)')
    add_device_argument(what)
    what.add_argument('--threads', type=int, metavar='N', help='of the CPU (default: all cores)')
    how = parser.add_argument_group('which operations')
    how.add_argument('--ops', nargs='+', default=[os.environ.get(BACKEND_VARIABLE, 'auto')], choices=BACKENDS,
                     help="backends of AdaRoute's operations, each a row (default: %(default)s, that of MMPARAX_OPS)")
    how.add_argument('--efficient-attention', choices=('on', 'off', 'both'), default='on',
                     help='the frozen attention computed efficiently (Swin); both: a row for each (default: %(default)s)')
    how.add_argument('--compile', action='store_true', help='torch.compile every model')
    how.add_argument('--with-cp', action='store_true', help='recompute activations in the backward pass')
    how.add_argument('--recompute', choices=('auto', 'on', 'off'), default='auto', help='adapters compute wide activations again '
                     'rather than keep them (default: auto, on a GPU)')
    rounds = parser.add_argument_group('how long')
    rounds.add_argument('--rounds', type=int, default=10, metavar='N', help='turns of each model (default: %(default)s)')
    rounds.add_argument('--steps-per-turn', type=int, default=1, metavar='N', help='steps in a turn (default: %(default)s)')
    rounds.add_argument('--warmup', type=int, default=1, metavar='N', help='steps of each model before (default: %(default)s)')
    rounds.add_argument('--minutes', type=float, help='begin no round after so many minutes, shared by the backbones')
    parser.add_argument('--saved', action='store_true',
                        help='measure instead what autograd saves for the backward pass, by block and token')
    parser.add_argument('--profile', action='store_true', help='show instead which operations a training step spends its time in')
    add_out_dir_argument(parser, 'work_dirs/benchmark', 'folder of the JSON and the chart')
    preset = parser.parse_known_args()[0].preset
    parser.set_defaults(**PRESETS.get(preset, {}))
    return parser


@tool(build_parser, backend='ops')
def main(args: argparse.Namespace) -> None:
    from mmparax.benchmark.session import run_session

    run_session(args)


if __name__ == '__main__':
    main()
