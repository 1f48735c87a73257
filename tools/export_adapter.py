#!/usr/bin/env python
"""Publish what a run trained as one small file: ``python tools/export_adapter.py CONFIG CHECKPOINT OUT.safetensors``."""
import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmparax.cli import ToolParser, add_cfg_options_argument, load_config_quietly, tool
from mmparax.errors import ParameterError
from mmparax.utils.choices import FILE_DTYPES


def build_parser() -> ToolParser:
    parser = ToolParser(description='Write adapters and head of a checkpoint, with a description, into a '
                        'safetensors file that loads wherever a checkpoint does, onto the same base.')
    parser.add_argument('config', help='config file of the run')
    parser.add_argument('checkpoint', help='checkpoint file of the run')
    parser.add_argument('out', help='file to write; ends in .safetensors')
    parser.add_argument('--no-head', action='store_true', help='leave out everything outside the backbone')
    parser.add_argument('--dtype', choices=FILE_DTYPES, help='precision in the file (default: that of the model, '
                        'float32, whatever the checkpoint has)')
    parser.add_argument(
        '--metric', nargs='+', metavar='NAME=VALUE', default=[],
        help='what was measured with this checkpoint, e.g. mIoU=50.3 (default: what a best_* or an '
        'adapter file says itself)')
    parser.add_argument('--force', action='store_true', help='replace OUT if it exists')
    add_cfg_options_argument(parser)
    return parser


def parse_metric(pairs: list) -> dict[str, float]:
    """``NAME=VALUE`` pairs as numbers."""
    metric = {}
    for pair in pairs:
        name, _, value = pair.rpartition('=')
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not name.strip() or not math.isfinite(number):
            raise ParameterError('metric', pair, 'it is NAME=NUMBER, such as mIoU=50.3')
        if name in metric:
            raise ParameterError('metric', pair, f'{name} was given before, as {metric[name]}', 'Give each once.')
        metric[name] = number
    return metric


def find_metric(checkpoint: Mapping[str, Any], path: str) -> dict[str, float] | None:
    """What was measured with the weights of an adapter file or a ``best_*`` file, if it says so.

    A ``best_*`` file is written right after its evaluation; other checkpoints of a run are not. Measures without a value are
    left out.
    """
    from mmparax.weights.adapter_file import get_description

    published = get_description(checkpoint)
    if published:
        return published['metric']
    hub = checkpoint.get('message_hub') or {}
    best = [value for name, value in (hub.get('runtime_info') or {}).items() if name.startswith('best_ckpt')]
    if Path(path).name not in [Path(str(value)).name for value in best]:
        return None
    return {
        name[len('val/'):]: float(history.current()) for name, history in hub['log_scalars'].items()
        if name.startswith('val/') and not name.endswith('time') and math.isfinite(history.current())
    }


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmparax.checkpoint.adapter_io import save_adapter
    from mmparax.deploy.standalone import check_output_file
    from mmparax.inference.predictions import build_and_load
    from mmparax.weights.adapter_file import SUFFIX

    metric = parse_metric(args.metric)
    check_output_file(args.out, (SUFFIX, ), args.force)
    cfg = load_config_quietly(args)
    model, content = build_and_load(cfg, args.checkpoint)
    about = save_adapter(model, args.out, include_head=not args.no_head, dtype=args.dtype, cfg=cfg, metric=metric
                         or find_metric(content, args.checkpoint), dataset_meta=(content.get('meta') or {}).get('dataset_meta'))
    print(f'{args.out}: {Path(args.out).stat().st_size / 1e6:.2f} MB, {about["tensors"]["number"]} tensors, '
          f'{"with" if about["head_included"] else "without"} head, base {about["fingerprint"][:12]}…')


if __name__ == '__main__':
    main()
