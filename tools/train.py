#!/usr/bin/env python
"""Train a model: ``python tools/train.py CONFIG``."""
import argparse
import logging

from mmparax.cli import (
    ToolParser,
    add_amp_argument,
    add_run_arguments,
    add_scan_arguments,
    build_runner,
    keep_config_file,
    load_run_config,
    tool,
)
from mmparax.errors import InputError, ParameterError, check_int
from mmparax.utils.ranks import is_first_process


def build_parser() -> ToolParser:
    parser = ToolParser(description='Train a model; interrupt it at any moment and call again with --resume to '
                        'go on as if nothing had happened.')
    parser.add_argument('config', help='config file')
    add_run_arguments(parser)
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='CHECKPOINT',
        help='resume from CHECKPOINT, or without one from the latest of the work dir (starts afresh if '
        'there is none)')
    add_amp_argument(parser)
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help="scale the learning rate by this run's batch over the recipe's")
    add_scan_arguments(parser, 'look at the data before training')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate while training')
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmengine.logging import print_log
    from mmengine.runner import find_latest_checkpoint

    from mmparax.checks.components import check_components
    from mmparax.checks.hidden_folders import leave_out_hidden_folders
    from mmparax.checks.scan_report import check_run_data
    from mmparax.config.files import check_checkpoint
    from mmparax.config.sections import check_loops
    from mmparax.utils.launch import evaluate_without_amp, keep_freed_memory, prepare_processes, use_amp
    from mmparax.utils.locks import lock_folder

    if args.scan is not None and args.launcher != 'none':
        raise ParameterError('scan', args.scan, 'one process would scan while all others wait, until they give up',
                             'Scan once with tools/doctor.py CONFIG --scan, then start the processes without it.')
    cfg = load_run_config(args)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        checkpoint = cfg.get('default_hooks', {}).get('checkpoint')
        if checkpoint is not None:
            checkpoint.pop('save_best', None)  # there will be no metric to choose by
    check_loops(cfg)
    notes = check_components(cfg)
    use_amp(cfg, args.amp)
    evaluate_without_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise InputError(f'--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in {args.config!r}: the '
                             'batch that its learning rate is for.')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        # The first launch of a job that always says --resume has nothing to resume and keeps its load_from.
        cfg.resume = args.resume != 'auto' or find_latest_checkpoint(cfg.work_dir) is not None
        if cfg.resume:
            cfg.load_from = None if args.resume == 'auto' else args.resume
        if cfg.load_from:
            check_checkpoint(cfg.load_from)
    check_int('workers', args.workers, 0)
    if is_first_process(cfg.launcher):
        for sentence in [*notes, *check_run_data(cfg, args.scan, args.workers)]:
            print_log(sentence, logger='current', level=logging.WARNING)
    else:
        leave_out_hidden_folders(cfg, ['train_dataloader', 'val_dataloader'])
    if is_first_process(cfg.launcher):
        lock_folder(cfg.work_dir)  # before the runner writes anything there
    prepare_processes(cfg)
    keep_freed_memory()
    with keep_config_file(cfg):
        build_runner(cfg).train()


if __name__ == '__main__':
    main()
