#!/usr/bin/env python
"""Write backbone and head as an ONNX file: ``python tools/export_onnx.py CONFIG CHECKPOINT OUT.onnx --size H [W]``."""
import argparse
from pathlib import Path
from typing import Any

from mmparax.cli import (
    ToolParser,
    add_batch_size_argument,
    add_cfg_options_argument,
    add_size_argument,
    load_config_quietly,
    tool,
)
from mmparax.errors import InputError
from mmparax.utils.toolboxes import is_installed

TOLERANCE = 1e-3  # relative to the largest output


def build_parser() -> ToolParser:
    parser = ToolParser(description='Write a model at one fixed size as ONNX: a segmentor\'s logits, a '
                        "classifier's scores, a detector's maps behind its neck; then compare with onnxruntime.")
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint or adapter file, with its head')
    parser.add_argument('out', help='file to write; ends in .onnx')
    add_size_argument(parser, 'height and width of the images, after resizing and padding', required=True)
    add_batch_size_argument(parser, 1, 'number of images; fixed in the file')
    parser.add_argument('--merge', action='store_true', help='merge the adapters into the base first (LoRA)')
    parser.add_argument('--force', action='store_true', help='replace a file that is there')
    add_cfg_options_argument(parser)
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmparax.config.query import get_model_config
    from mmparax.deploy.merging import merge_adapter
    from mmparax.deploy.onnx_file import MEANING, check_packages, export_onnx
    from mmparax.deploy.standalone import check_output_file
    from mmparax.inference.predictions import load_model

    cfg = load_config_quietly(args)
    check_packages()
    check_output_file(args.out, ('.onnx', ), args.force)
    model = load_model(cfg, args.checkpoint)
    if args.merge:
        merge_adapter(model)
    preprocessor = get_model_config(cfg).get('data_preprocessor') or {}
    out = Path(args.out)
    draft = out.with_name(f'.{out.stem}.part.onnx')
    try:
        about = export_onnx(model, draft, args.size, args.batch_size, True, dict(data_preprocessor=preprocessor))
        compared = compare(model, draft, args.out)
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    print(f'{out}: {out.stat().st_size / 1e6:.1f} MB')
    print(f'in:  images {about["input"]["shape"]}, normalised: mean {preprocessor.get("mean")}, std {preprocessor.get("std")}')
    for output in about['outputs']:
        print(f'out: {output["name"]} {output["shape"]}')
    print(f'{about["outputs"][0]["name"]}: {MEANING[about["kind"]]}')
    print(compared)


def compare(model: Any, draft: Path, out: str) -> str:
    """Say how far the file is from the model.

    Raises:
        InputError: if it is too far.
    """
    from mmparax.deploy.onnx_file import RUNTIME, compare_onnx

    if not is_installed(RUNTIME):
        return f'Not compared: {RUNTIME} is not installed.'
    difference = compare_onnx(model, draft)
    if not difference <= TOLERANCE:
        raise InputError(f'the ONNX file gives other outputs than the model (by {difference:.3g} of the largest one, more '
                         f'than {TOLERANCE}): {out!r} was not written.')
    return f'{RUNTIME} and torch differ by at most {difference:.3g} of the largest output (random images).'


if __name__ == '__main__':
    main()
