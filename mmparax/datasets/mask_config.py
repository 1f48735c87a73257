"""Composes a config that trains AdaRoute on what :mod:`mmparax.datasets.masks` has written."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pprint import pformat
from statistics import median_low
from typing import Any

from mmparax.datasets.masks import MaskSet
from mmparax.datasets.palette import choose_palette
from mmparax.errors import ParameterError, check_choice, check_int


@dataclass(frozen=True)
class Recipe:
    """What a config inherits and what it is for.

    Attributes:
        base: the config to inherit from.
        iterations: usual number.
        validations: their number in a run.
        size: (smallest, largest) short side that images of any size are brought to, in pixels.
        crop: side of the square that training cuts out of them.
        longest: largest long side, in pixels.
    """
    base: str
    iterations: int
    validations: int
    size: tuple[int, int]
    crop: int
    longest: int


RECIPES = {
    'swin-b': Recipe('semantic_segmentation/upernet_swin-b_adaroute_4xb4-160k_ade20k-512x512.py', 8000, 10, size=(256, 512),
                     crop=512, longest=2048),
    'swin-mini': Recipe('quickstart/upernet_swin-mini_adaroute_1xb8-500_scenes-128x128.py', 500, 2, size=(32, 128), crop=96,
                        longest=128),
}
LINE = 127  # longest line
STRIDE = 32  # of the deepest features


def compose_config(found: MaskSet, out_dir: str | Path, path: str, model: str = 'swin-b', iterations: int | None = None,
                   size: Sequence[int] | None = None, crop: Sequence[int] | None = None) -> str:
    """Compose a config that trains AdaRoute on a written folder.

    Args:
        found: from :func:`mmparax.datasets.masks.examine`.
        out_dir: the folder, as the config is to name it.
        path: file of the config, for its first line.
        model: ``'swin-b'``, the paper's model at 512x512 for a GPU, or ``'swin-mini'``, the mini backbone that ships at 128
            pixels for a CPU.
        iterations: of training, at least 20; by default 8000 (Swin-B) or 500. The schedule is not from the paper.
        size: (height, width) that images are scaled to fit in, their proportions kept; by default that of most images, as far
            as the model is for it.
        crop: (height, width) that training cuts out of the scaled images; by default 512 (Swin-B) or 96, or what fits in
            ``size``.

    Raises:
        ParameterError: if an argument is out of range.
    """
    recipe = RECIPES[check_choice('model', model, list(RECIPES))]
    steps = check_int('iterations', recipe.iterations if iterations is None else iterations, 20)
    size, crop = choose_sizes(found, model, size, crop)
    warmup, interval = steps // 20, -(-steps // recipe.validations)
    metainfo = dict(classes=tuple(found.classes), palette=choose_palette(len(found.classes)))
    suffix = '' if found.suffix == '.jpg' else f', img_suffix={found.suffix!r}'
    classes = f'num_classes={len(found.classes)}'
    scale = f'scale=({size[1]}, {size[0]})'
    pixels = f'{size[1]}x{size[0]}'
    if model == 'swin-b':
        purpose = f'Not from the paper: {steps} iterations of 8 images on one GPU; its recipe has 160000 of 16.'
        heads = [f'model = dict({{}}decode_head=dict({classes}), auxiliary_head=dict({classes}))']
        more = ['auto_scale_lr = dict(base_batch_size=8)']
        test_pipeline = ('test_pipeline = [_base_.test_pipeline[0], dict(_base_.test_pipeline[1], '
                         f'{scale}), *_base_.test_pipeline[2:]]')
        one = ''
    else:
        purpose = f'A try-out with the mini Swin that ships, for a CPU: {steps} iterations of 8 images.'
        heads = [
            f'head = dict({classes}, loss_decode=dict(class_weight=None))',
            'model = dict({}decode_head=head, auxiliary_head=head)',
        ]
        more = []
        # The inherited pipeline takes images as they are: 128x128 pixels in its data set.
        test_pipeline = (f"test_pipeline = [_base_.test_pipeline[0], dict(type='Resize', {scale}, keep_ratio=True), "
                         '*_base_.test_pipeline[1:]]')
        one = 'batch_size=1, '
    return '\n'.join([
        f'# python tools/train.py {path}',
        f'# {purpose}',
        f"_base_ = 'mmparax::{recipe.base}'",
        _format_metainfo(metainfo),
        f"data = dict(type='BaseSegDataset', data_root={Path(out_dir).as_posix()!r}, reduce_zero_label=False{suffix}, "
        'metainfo=metainfo)',
        *(line.replace('{}', f'data_preprocessor=dict(size=({crop[0]}, {crop[1]})), ') for line in heads),
        f'# Images are scaled to fit in {pixels} pixels; training varies that and cuts out {crop[1]}x{crop[0]}.',
        f'train_pipeline = [*_base_.train_pipeline[:2], dict(_base_.train_pipeline[2], {scale}),',
        f'                  dict(_base_.train_pipeline[3], crop_size=({crop[0]}, {crop[1]})), *_base_.train_pipeline[4:]]',
        test_pipeline,
        'train_dataloader = dict(batch_size=8, dataset=dict(**data, pipeline=train_pipeline))',
        *_format_evaluation(found, one),
        f'param_scheduler = [dict(_base_.param_scheduler[0], end={warmup}), '
        f'dict(_base_.param_scheduler[1], begin={warmup}, end={steps})]',
        f'train_cfg = dict(max_iters={steps}, val_interval={interval})',
        f"default_hooks = dict(checkpoint=dict(interval={interval}, save_best='mIoU'))",
        *more,
        f'randomness = dict(seed={found.seed})',
    ]) + '\n'


def choose_sizes(found: MaskSet, model: str, size: Sequence[int] | None = None,
                 crop: Sequence[int] | None = None) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the scaled images and of the crops; what is given is checked, the rest follows from the data.

    Raises:
        ParameterError: if one is too small for the model, or a crop is larger than the images.
    """
    recipe = RECIPES[model]
    for name, given in (('size', size), ('crop', crop)):
        if given is not None and (len(given) != 2 or min(check_int(name, side) for side in given) < STRIDE):
            raise ParameterError(name, tuple(given), f'height and width must be at least {STRIDE} pixels')
    if size is not None:
        height, width = size
    else:
        height, width = _measure_images(found, recipe)
    if crop is None:
        crop = [max(min(recipe.crop, side - side % STRIDE), STRIDE) for side in (height, width)]
        if _are_mixed(found):  # upright and lying images
            crop = [min(crop)] * 2
    elif crop[0] > max(height, width) or crop[1] > max(height, width) or min(crop) > min(height, width):
        raise ParameterError('crop', tuple(crop), f'it must fit in the scaled images, {width}x{height} pixels (width x height)',
                             'Give a smaller one, or a larger size.')
    return (height, width), (crop[0], crop[1])


def _measure_images(found: MaskSet, recipe: Recipe) -> tuple[int, int]:
    """(height, width) of most images, as far as the recipe is for it."""
    sizes = [pair.size for pairs in found.pairs.values() for pair in pairs] or [(recipe.size[1], recipe.size[1])]
    short, long = (median_low(sides) for sides in zip(*map(sorted, sizes)))
    factor = min(min(max(short, recipe.size[0]), recipe.size[1]) / short, recipe.longest / long)
    sides = max(round(short * factor), 1), max(round(long * factor), 1)
    upright = sum(height > width for height, width in sizes) > len(sizes) / 2
    return (sides[1], sides[0]) if upright else sides


def _are_mixed(found: MaskSet) -> bool:
    shapes = [pair.size[0] > pair.size[1] for pairs in found.pairs.values() for pair in pairs if pair.size[0] != pair.size[1]]
    return any(shapes) and not all(shapes)


def _format_evaluation(found: MaskSet, options: str) -> list[str]:
    """The loaders of validation and test; without images for the test, it is the validation."""
    if 'test' not in found.pairs:
        return [f'val_dataloader = test_dataloader = dict({options}dataset=dict(**data, pipeline=test_pipeline))']
    return [
        f'val_dataloader = dict({options}dataset=dict(**data, pipeline=test_pipeline))',
        f'test_dataloader = dict({options}dataset=dict(',
        "    **data, pipeline=test_pipeline, data_prefix=dict(img_path='images/test', seg_map_path='annotations/test')))",
    ]


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
