#!/usr/bin/env python
"""Examine a config without training: ``python tools/doctor.py CONFIG``."""
import argparse
import sys

from mmparax.cli import (
    ToolParser,
    add_amp_argument,
    add_batch_size_argument,
    add_cfg_options_argument,
    add_gpus_argument,
    tool,
)
from mmparax.errors import check_int


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Build the model of a config, load its base, take one step on one batch, and say what is frozen, whether '
        'the base fits, what would break several processes, and whether batch and learning rate are the recipe\'s. Ends with '
        'a verdict; exit code 1 if there is a problem.')
    parser.add_argument('config', help='config file')
    add_cfg_options_argument(parser)
    add_gpus_argument(parser, None, 'processes that the run will have (default: the GPUs of this '
                      'machine)')
    add_batch_size_argument(parser, 2, 'images of the one step')
    add_amp_argument(parser)
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    import torch
    from rich.console import Console
    from rich.text import Text

    from mmparax.config.files import load_config
    from mmparax.doctor import OK, PROBLEM, SKIPPED, WARNING, Doctor, Finding, summarize
    from mmparax.utils.launch import use_amp
    from mmparax.utils.logs import silence_log

    styles = {OK: 'green', WARNING: 'yellow', PROBLEM: 'bold red', SKIPPED: 'dim'}
    gpus = max(torch.cuda.device_count(), 1) if args.gpus is None else check_int('gpus', args.gpus)
    check_int('batch_size', args.batch_size)
    silence_log()
    cfg = load_config(args.config, args.cfg_options)
    use_amp(cfg, args.amp)
    console = Console(soft_wrap=True, highlight=False)

    def report(finding: Finding) -> None:
        console.print(Text.assemble((f'{finding.status:<8}', styles[finding.status]), f'{finding.check:<15}', finding.text))

    ready, sentence = summarize(Doctor(cfg, args.batch_size, gpus, report).examine())
    console.print(Text(sentence, 'bold green' if ready else 'bold red'))
    sys.exit(0 if ready else 1)


if __name__ == '__main__':
    main()
