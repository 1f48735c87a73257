"""Composes a config that trains AdaRoute on what :mod:`mmparax.datasets.masks` has written."""
import colorsys
from pathlib import Path
from pprint import pformat
from typing import Any

from mmparax.datasets.masks import MaskSet
from mmparax.errors import check_choice, check_int

# Model -> (config to inherit from, usual number of iterations, number of validations).
RECIPES = {
    'swin-b': ('semantic_segmentation/upernet_swin-b_adaroute_4xb4-160k_ade20k-512x512.py', 8000, 10),
    'swin-mini': ('quickstart/upernet_swin-mini_adaroute_1xb8-500_scenes-128x128.py', 500, 2),
}
LINE = 127  # longest line


def compose_config(found: MaskSet, out_dir: str | Path, path: str, model: str = 'swin-b', iterations: int | None = None) -> str:
    """Compose a config that trains AdaRoute on a written folder.

    Args:
        found: from :func:`mmparax.datasets.masks.examine`.
        out_dir: the folder, as the config is to name it.
        path: file of the config, for its first line.
        model: ``'swin-b'``, the paper's model at 512x512 for a GPU, or ``'swin-mini'``, the mini backbone that ships at 128
            pixels for a CPU.
        iterations: of training, at least 20; by default 8000 (Swin-B) or 500. The schedule is not from the paper.
    """
    base, usual, validations = RECIPES[check_choice('model', model, list(RECIPES))]
    steps = check_int('iterations', usual if iterations is None else iterations, 20)
    warmup, interval = steps // 20, -(-steps // validations)
    metainfo = dict(classes=tuple(found.classes), palette=[_choose_color(number) for number in range(len(found.classes))])
    suffix = '' if found.suffix == '.jpg' else f', img_suffix={found.suffix!r}'
    classes = f'num_classes={len(found.classes)}'
    if model == 'swin-b':
        purpose = f'Not from the paper: {steps} iterations of 8 images on one GPU; its recipe has 160000 of 16.'
        own = [
            f'model = dict(decode_head=dict({classes}), auxiliary_head=dict({classes}))',
            'auto_scale_lr = dict(base_batch_size=8)'
        ]
        validation = 'dataset=data'
    else:
        purpose = f'A try-out with the mini Swin that ships, for a CPU: {steps} iterations of 8 images of 128 pixels.'
        own = [
            f'head = dict({classes}, loss_decode=dict(class_weight=None))',
            'model = dict(decode_head=head, auxiliary_head=head)',
            # The inherited pipeline takes images as they are: 128x128 pixels in its data set.
            "test_pipeline = [_base_.test_pipeline[0], dict(type='Resize', scale=(128, 128), keep_ratio=True), "
            '*_base_.test_pipeline[1:]]'
        ]
        validation = 'batch_size=1, dataset=dict(**data, pipeline=test_pipeline)'
    return '\n'.join([
        f'# python tools/train.py {path}',
        f'# {purpose}',
        f"_base_ = 'mmparax::{base}'",
        _format_metainfo(metainfo),
        f"data = dict(type='BaseSegDataset', data_root={Path(out_dir).as_posix()!r}, reduce_zero_label=False{suffix}, "
        'metainfo=metainfo)',
        *own,
        'train_dataloader = dict(batch_size=8, dataset=data)',
        f'val_dataloader = test_dataloader = dict({validation})',
        f'param_scheduler = [dict(_base_.param_scheduler[0], end={warmup}), '
        f'dict(_base_.param_scheduler[1], begin={warmup}, end={steps})]',
        f'train_cfg, default_hooks = dict(max_iters={steps}, val_interval={interval}), '
        f'dict(checkpoint=dict(interval={interval}))',
    ]) + '\n'


def _format_metainfo(metainfo: dict[str, Any]) -> str:
    """``metainfo = dict(...)`` in lines that are not too long."""
    line = f'metainfo = dict({", ".join(f"{name}={value!r}" for name, value in metainfo.items())})'
    if len(line) <= LINE:
        return line
    entries = []
    for name, value in metainfo.items():
        head = f'    {name}='
        entries.append(head + pformat(value, width=LINE - 1 - len(head), compact=True).replace('\n', '\n' + ' ' * len(head)))
    return 'metainfo = dict(\n' + ',\n'.join(entries) + ')'


def _choose_color(number: int) -> list[int]:
    """RGB of a class: hues a golden angle apart stay far from each other, however many there are."""
    rgb = colorsys.hsv_to_rgb(0.618034 * number % 1, 0.9 - 0.35 * (number % 2), 1.0 - 0.3 * (number % 3 == 1))
    return [round(255 * channel) for channel in rgb]
