#!/usr/bin/env python
"""Evaluate a model: ``python tools/test.py CONFIG CHECKPOINT``."""
import argparse
import logging

from mmengine.logging import print_log

from mmparax.checks.data import check_datasets
from mmparax.checks.hidden_folders import leave_out_hidden_folders
from mmparax.cli import ToolParser, add_run_arguments, build_runner, draw_predictions, keep_config_file, load_run_config, tool
from mmparax.config.files import check_checkpoint
from mmparax.errors import InputError
from mmparax.inference.metrics import format_results_table, write_predictions
from mmparax.utils.launch import evaluate_without_amp, is_first_process, prepare_processes


def build_parser() -> ToolParser:
    parser = ToolParser(description='Evaluate a checkpoint on the test set of a config; ends with the metrics in '
                        "the columns of the paper's tables.")
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_run_arguments(parser)
    parser.add_argument('--out-dir', metavar='DIR', help='write the predictions to this folder')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='write pictures of the predictions to this folder')
    parser.add_argument('--wait-time', type=float, default=2, metavar='SECONDS',
                        help='how long --show shows a picture (default: %(default)s)')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    cfg = load_run_config(args)
    check_checkpoint(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    for sentence in leave_out_hidden_folders(cfg, ['test_dataloader']):
        print_log(sentence, logger='current', level=logging.WARNING)
    check_datasets(cfg, ['test_dataloader'])
    if args.show or args.show_dir:
        draw_predictions(cfg, args.show, args.show_dir, args.wait_time)
    if args.tta:
        if 'tta_pipeline' not in cfg or 'tta_model' not in cfg:
            raise InputError(f'--tta needs tta_model and tta_pipeline, and the config {args.config!r} has not both.')
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.tta_model.module = cfg.model
        cfg.model = cfg.tta_model
    if args.out_dir is not None:
        write_predictions(cfg, args.out_dir)
    evaluate_without_amp(cfg)
    prepare_processes(cfg)
    with keep_config_file(cfg, always=True):
        table = format_results_table(build_runner(cfg).test())
    if table and is_first_process(cfg.launcher):
        print(table, flush=True)


if __name__ == '__main__':
    main()
