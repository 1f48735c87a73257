#!/usr/bin/env python
"""Examine a config without training: ``python tools/doctor.py CONFIG``."""
import argparse
import sys

import torch
from rich.console import Console
from rich.text import Text

from mmparax.cli import add_config_options, tool
from mmparax.config.files import load_config
from mmparax.doctor import OK, PROBLEM, SKIPPED, WARNING, Doctor, Finding, summarize
from mmparax.utils.launch import PRECISIONS, amp_with_value, use_amp
from mmparax.utils.logs import quiet_log

STYLES = {OK: 'green', WARNING: 'yellow', PROBLEM: 'bold red', SKIPPED: 'dim'}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Build the model of a config, load its base, take one step on one batch, and say what is frozen, whether '
        'the base fits, what would break several processes, and whether batch and learning rate are the recipe\'s. Ends with '
        'a verdict; exit code 1 if there is a problem.')
    parser.add_argument('config', help='config file')
    add_config_options(parser)
    parser.add_argument('--gpus', type=int, default=max(torch.cuda.device_count(), 1), metavar='N',
                        help='processes that the run will have (default: the GPUs of this machine)')
    parser.add_argument('--batch-size', type=int, default=2, metavar='N', help='images of the one step (default: 2)')
    parser.add_argument('--amp', nargs='?', const='fp16', choices=PRECISIONS, help='mixed precision, as in tools/train.py')
    return parser.parse_args(amp_with_value(sys.argv[1:]))


@tool
def main() -> None:
    args = parse_args()
    quiet_log()
    cfg = load_config(args.config, args.cfg_options)
    use_amp(cfg, args.amp)
    console = Console(soft_wrap=True, highlight=False)

    def report(finding: Finding) -> None:
        console.print(Text.assemble((f'{finding.status:<8}', STYLES[finding.status]), f'{finding.check:<15}', finding.text))

    ready, sentence = summarize(Doctor(cfg, args.batch_size, args.gpus, report).examine())
    console.print(Text(sentence, 'bold green' if ready else 'bold red'))
    sys.exit(0 if ready else 1)


if __name__ == '__main__':
    main()
