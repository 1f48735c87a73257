#!/usr/bin/env python
"""Write a checkpoint that needs no base checkpoint: ``python tools/merge_checkpoint.py CONFIG CHECKPOINT OUT``."""
import argparse
from pathlib import Path

from mmparax.cli import ToolParser, add_cfg_options_argument, load_config_quietly, tool


def build_parser() -> ToolParser:
    parser = ToolParser(description='Write base, adapters and head of a checkpoint or adapter file into one '
                        'checkpoint; the config then needs no base_checkpoint.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint or adapter file, with its head')
    parser.add_argument('out', help='file to write; ends in .pth or, without --upstream, .safetensors')
    parser.add_argument(
        '--upstream', action='store_true',
        help="merge the adapters into the base and write the keys of the toolbox's own backbone, which then "
        'needs no mmparax: LoRA, and methods that add no modules')
    parser.add_argument('--force', action='store_true', help='replace a file that is there')
    add_cfg_options_argument(parser)
    return parser


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmparax.backbones.adapted import find_adapted_backbones
    from mmparax.deploy.standalone import (
        SUFFIXES,
        check_output_file,
        make_standalone_checkpoint,
        make_upstream_checkpoint,
        make_upstream_config,
        write_checkpoint,
    )
    from mmparax.inference.predictions import build_and_load

    cfg = load_config_quietly(args)
    # mmengine, which alone loads --upstream's file, reads no safetensors.
    check_output_file(args.out, ('.pth', ) if args.upstream else SUFFIXES, args.force)
    model, content = build_and_load(cfg, args.checkpoint)
    meta = content.get('meta') or {}
    lines = ['Use it with the same config and model.backbone.base_checkpoint=None.']
    if args.upstream:
        merged, difference = make_upstream_checkpoint(model, meta)
        lines = [f'{name}={make_upstream_config(backbone)}' for name, backbone in find_adapted_backbones(model)]
        lines += [f'The outputs of this backbone and of the adapted one differ by at most {difference:.3g} (a random image).']
    else:
        merged = make_standalone_checkpoint(model, meta)
    write_checkpoint(args.out, merged, args.force)
    print(f'{args.out}: {Path(args.out).stat().st_size / 1e6:.1f} MB, {len(merged["state_dict"])} tensors', *lines, sep='\n')


if __name__ == '__main__':
    main()
