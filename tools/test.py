#!/usr/bin/env python
"""Evaluate a model: ``python tools/test.py CONFIG CHECKPOINT``."""
import argparse
import logging

from mmparax.cli import ToolParser, add_run_arguments, build_runner, draw_predictions, keep_config_file, load_run_config, tool
from mmparax.errors import InputError
from mmparax.utils.ranks import is_first_process


def build_parser() -> ToolParser:
    parser = ToolParser(description='Evaluate a checkpoint on the test set of a config; ends with the metrics in '
                        "the columns of the paper's tables, the split and the number of images.")
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_run_arguments(parser)
    parser.add_argument('--out-dir', metavar='DIR', help='write the predictions to this folder')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR',
                        help='write a picture of each prediction to this folder, called like its image')
    parser.add_argument('--wait-time', type=float, default=2, metavar='SECONDS',
                        help='how long --show shows a picture (default: %(default)s)')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmengine.logging import print_log

    from mmparax.checks.data import check_datasets
    from mmparax.checks.hidden_folders import leave_out_hidden_folders
    from mmparax.config.files import check_checkpoint
    from mmparax.inference.evaluation import describe_evaluation, format_images, record_evaluation
    from mmparax.inference.metrics import format_results_table, write_predictions
    from mmparax.inference.picture_hook import PictureHook
    from mmparax.utils.launch import evaluate_without_amp, prepare_processes
    from mmparax.utils.storage import check_writable

    cfg = load_run_config(args)
    check_checkpoint(args.checkpoint)
    cfg.load_from, cfg.resume = args.checkpoint, False
    for sentence in leave_out_hidden_folders(cfg, ['test_dataloader']):
        print_log(sentence, logger='current', level=logging.WARNING)
    check_datasets(cfg, ['test_dataloader'])
    for folder in filter(None, (cfg.work_dir, args.out_dir, args.show_dir)):
        check_writable(folder)
    if args.show:
        draw_predictions(cfg, args.wait_time)
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
        runner = build_runner(cfg)
        if args.show_dir is not None:
            runner.register_hook(PictureHook(args.show_dir))
        metrics = runner.test()
    about = describe_evaluation(cfg, runner.test_dataloader.dataset, args.checkpoint, args.tta)
    if is_first_process(cfg.launcher):
        record_evaluation(runner.log_dir, metrics, about)
        print(format_results_table(metrics, format_images(about)) or f'Evaluated on {format_images(about)}.', flush=True)


if __name__ == '__main__':
    main()
