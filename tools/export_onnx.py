#!/usr/bin/env python
"""Write backbone and head as an ONNX file: ``python tools/export_onnx.py CONFIG CHECKPOINT OUT.onnx --shape H W``."""
import argparse
import logging
import warnings
from pathlib import Path

from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope

from mmparax.analysis.data import model_config
from mmparax.analysis.predictions import load_model
from mmparax.cli import add_config_options, check_checkpoint, load_config, tool
from mmparax.deploy.merging import merge_adapter
from mmparax.deploy.onnx_file import LEVELS, LOGITS, RUNTIME, SCORES, check_packages, compare_onnx, export_onnx
from mmparax.deploy.standalone import check_new
from mmparax.errors import ParameterError
from mmparax.toolboxes import is_installed

MEANING = {LOGITS: "the head's logits of each class, at the resolution of the head",
           SCORES: "the head's scores of each class, before the softmax",
           LEVELS: 'the maps of backbone and neck (the heads of a detector make proposals, which are no fixed graph)'}
TOLERANCE = 1e-3  # relative to the largest output


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write a model at one fixed size as ONNX: a segmentor\'s logits, a '
                                     "classifier's scores, a detector's maps behind its neck; then compare with onnxruntime.")
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint or adapter file, with its head')
    parser.add_argument('out', help='file to write; ends in .onnx')
    parser.add_argument('--shape', nargs=2, type=int, required=True, metavar=('H', 'W'),
                        help='height and width of the images, after resizing and padding')
    parser.add_argument('--batch', type=int, default=1, metavar='N', help='number of images; fixed in the file (default: 1)')
    parser.add_argument('--merge', action='store_true', help='merge the adapters into the trunk first (LoRA)')
    parser.add_argument('--force', action='store_true', help='replace a file that is there')
    add_config_options(parser)
    return parser.parse_args()


@tool
def main() -> None:
    args = parse_args()
    MMLogger.get_instance('mmengine', log_level=logging.ERROR)
    warnings.simplefilter('ignore')
    cfg = load_config(args)
    check_checkpoint(args.checkpoint)
    check_packages()
    check_new(args.out, ('.onnx', ), args.force)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model = load_model(cfg, args.checkpoint)
    if args.merge:
        merge_adapter(model)
    preprocessor = model_config(cfg).get('data_preprocessor') or {}
    about = export_onnx(model, args.out, args.shape, args.batch, args.force, dict(data_preprocessor=preprocessor))
    print(f'{args.out}: {Path(args.out).stat().st_size / 1e6:.1f} MB')
    print(f'in:  images {about["input"]["shape"]}, normalised: mean {preprocessor.get("mean")}, std {preprocessor.get("std")}')
    for output in about['outputs']:
        print(f'out: {output["name"]} {output["shape"]}')
    print(f'{about["outputs"][0]["name"]}: {MEANING[about["kind"]]}')
    if not is_installed(RUNTIME):
        print(f'Not compared: {RUNTIME} is not installed.')
        return
    difference = compare_onnx(model, args.out)
    print(f'{RUNTIME} and torch differ by at most {difference:.3g} of the largest output (random images).')
    if not difference <= TOLERANCE:
        raise ParameterError(f'{args.out!r} gives other outputs than the model (by {difference:.3g} of the largest one, '
                             f'more than {TOLERANCE}): do not use it.')


if __name__ == '__main__':
    main()
