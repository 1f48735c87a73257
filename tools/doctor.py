#!/usr/bin/env python
"""Examine a config without training: ``python tools/doctor.py CONFIG``."""
from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from mmparax.cli import (
    ToolParser,
    add_amp_argument,
    add_batch_size_argument,
    add_cfg_options_argument,
    add_gpus_argument,
    add_scan_arguments,
    tool,
)
from mmparax.errors import InputError, check_int

if TYPE_CHECKING:
    from mmengine.config import Config
    from rich.console import Console


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
    parser.add_argument(
        '--fix', metavar='OUT', help='examine no more than --scan asks for; write corrected copies of annotation files of '
        'COCO\'s format into the folder OUT (or the file OUT.json), and say what was changed and what is left')
    add_scan_arguments(parser, 'look at the data alone, of training, validation and test')
    parser.add_argument('--json', metavar='FILE', help='with --scan: write what was found to FILE, too')
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    import torch
    from rich.console import Console
    from rich.text import Text

    from mmparax.checks.findings import OK, PROBLEM, SKIPPED, WARNING, Finding, summarize
    from mmparax.checks.fix_detection import fix_datasets
    from mmparax.config.files import load_config
    from mmparax.doctor import Doctor
    from mmparax.utils.launch import use_amp
    from mmparax.utils.logs import silence_log

    styles = {OK: 'green', WARNING: 'yellow', PROBLEM: 'bold red', SKIPPED: 'dim'}
    gpus = max(torch.cuda.device_count(), 1) if args.gpus is None else check_int('gpus', args.gpus)
    check_int('batch_size', args.batch_size)
    check_int('workers', args.workers, 0)
    if args.json and args.scan is None:
        raise InputError('--json writes what --scan finds: give both.')
    silence_log()
    cfg = load_config(args.config, args.cfg_options)
    console = Console(soft_wrap=True, highlight=False)
    if args.scan is not None or args.fix is not None:
        errors = 0 if args.scan is None else scan(cfg, args, console)
        if args.fix is not None:
            sentences, left = fix_datasets(cfg, args.fix)
            errors += left
            for sentence in sentences:
                console.print(sentence, markup=False)
        sys.exit(1 if errors else 0)
    if cfg.get('optim_wrapper') is not None:
        use_amp(cfg, args.amp)

    def report(finding: Finding) -> None:
        console.print(Text.assemble((f'{finding.status:<8}', styles[finding.status]), f'{finding.check:<15}', finding.text))

    ready, sentence = summarize(Doctor(cfg, args.batch_size, gpus, report).examine())
    console.print(Text(sentence, 'bold green' if ready else 'bold red'))
    sys.exit(0 if ready else 1)


def scan(cfg: Config, args: argparse.Namespace, console: Console) -> int:
    """Scan the data, print what was found, and return the number of errors."""
    from rich.text import Text

    from mmparax.checks.scan_report import count_errors, print_scan, scan_run, write_scan
    from mmparax.utils.choices import LOADERS

    scanned = scan_run(cfg, LOADERS, args.scan, args.workers)
    print_scan(scanned, console)
    if args.json:
        write_scan(scanned, args.json, args.config)
    errors = count_errors(scanned)
    console.print(
        Text(f'{errors} problem(s) in the data.' if errors else 'No problem in the data.',
             'bold red' if errors else 'bold green'))
    return errors


if __name__ == '__main__':
    main()
