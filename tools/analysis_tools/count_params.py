#!/usr/bin/env python
"""Count what is frozen and what is trainable: ``python tools/analysis_tools/count_params.py CONFIG``."""
import argparse
import json
from pathlib import Path
from typing import Any

from mmparax.cli import ToolParser, add_cfg_options_argument, tool


def build_parser() -> ToolParser:
    parser = ToolParser(
        description='Count the parameters of a config\'s model: frozen base, adapters, expert centers, output norms, head; '
        'their shares, and the backbone stage by stage. Several configs are compared in one table. Nothing is loaded and '
        'hardly any memory used.')
    parser.add_argument('configs', nargs='+', metavar='config', help='config file')
    add_cfg_options_argument(parser)
    parser.add_argument('--json', action='store_true', help='print JSON: an object for one config, a list for several')
    return parser


def build(path: str, cfg_options: dict[str, Any] | None) -> Any:
    """The model of a config without values."""
    from mmparax.config.files import load_config
    from mmparax.config.query import make_model_without_base
    from mmparax.utils.meta_device import build_on_meta

    cfg = load_config(path, cfg_options)
    return build_on_meta(make_model_without_base(cfg), cfg.get('default_scope', 'mmengine'))


def as_dict(config: str, model: Any) -> dict[str, Any]:
    """All counts of a model as plain numbers."""
    from mmparax.backbones.parameters import count_by_stage, count_parameters

    stages = [
        dict(stage=label, **{name: value for name, value in count.as_dict().items() if 'head' not in name})
        for label, count in count_by_stage(model).items()
    ]
    return dict(config=config, **count_parameters(model).as_dict(), stages=stages)


@tool(build_parser)
def main(args: argparse.Namespace) -> None:
    from mmparax.backbones.parameters import MODEL_SUMS, STAGE_SUMS, count_by_stage, count_parameters, format_side_by_side
    from mmparax.utils.logs import silence_log

    silence_log()
    models = {path: build(path, args.cfg_options) for path in args.configs}
    if args.json:
        found = [as_dict(config, model) for config, model in models.items()]
        print(json.dumps(found[0] if len(found) == 1 else found, indent=2))
    elif len(models) == 1:
        model, = models.values()
        print(count_parameters(model).table())
        print(format_side_by_side('Backbone by stage', count_by_stage(model), STAGE_SUMS, 120))
    else:
        counts = {Path(config).stem: count_parameters(model) for config, model in models.items()}
        print(format_side_by_side('Parameters', counts, MODEL_SUMS))


if __name__ == '__main__':
    main()
