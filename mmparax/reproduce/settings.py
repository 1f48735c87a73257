"""The code that a result depends on, and the few options that shorten and move the recipes of the synthetic scenes."""
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmparax.utils.code_digest import compute_parts_digest, read_package_source

# The rooms on whose code the numbers of a training depend.
ROOMS = ('adapters', 'backbones', 'datasets', 'ops', 'optim.py', 'weights')


def compute_code_version() -> str:
    """A digest of the code that a training's numbers depend on, besides its config, data and base."""
    return compute_parts_digest(read_package_source(*ROOMS))


def build_data_options(cfg: Config, data: str) -> dict[str, str]:
    """Options that let a config look for its data in another folder: the evaluators of COCO's tasks, too."""
    options = {f'{loader}.dataset.data_root': data for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader')}
    for evaluator in ('val_evaluator', 'test_evaluator'):
        options.update({
            f'{evaluator}.{name}': f'{data}{cfg[evaluator][name][len(cfg.data_root):]}' for name in ('ann_file', 'seg_prefix')
            if name in cfg[evaluator]
        })
    return options


def build_length_options(iterations: int, interval: int = 0) -> dict[str, int]:
    """Options that give a recipe of the scenes another length: an eighth of it is warm-up, the rest decay.

    Args:
        iterations: of the training.
        interval: iterations between checkpoints; only the last one by default.
    """
    warmup = -(-iterations // 8)
    return {
        'train_cfg.max_iters': iterations, 'train_cfg.val_interval': iterations, 'param_scheduler.0.end': warmup,
        'param_scheduler.1.begin': warmup, 'param_scheduler.1.end': iterations, 'default_hooks.checkpoint.interval': interval
        or iterations
    }


def format_options(options: Mapping[str, Any]) -> list[str]:
    """Options in the form that ``--cfg-options`` takes."""
    return [f'{name}={value}' for name, value in options.items()]
