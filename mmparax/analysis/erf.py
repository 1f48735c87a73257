"""Effective receptive field (Luo et al., NeurIPS 2016): which pixels the middle of a feature map depends on, and how much."""
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import PercentFormatter
from rich.table import Table
from torch import Tensor, nn

from mmparax.analysis.images import ImageCrops
from mmparax.analysis.measuring import LARGEST, SUMS, Setup, split_batches, sum_batches, write_arrays, write_figure, write_json
from mmparax.analysis.models import FeatureExtractor, load_extractor, set_map_output
from mmparax.config.files import load_config
from mmparax.errors import InputError, ParameterError, check_int
from mmparax.utils.devices import resolve_device
from mmparax.utils.tables import render_table

THRESHOLDS = (0.2, 0.3, 0.5, 0.99)
COLORS = ('#ffffff', '#38d9ff', '#5dff5d', '#ff5cf0')  # of the squares
OUTLINE = [Stroke(linewidth=3, foreground='black'), Normal()]  # keeps them apart from any colour of the map
DECADES = 4  # of the colour scale at most
PROBE = 448  # a multiple of every usual stride


def compute_erf(model: nn.Module, images: Iterable[Tensor], stage: int | None = None, rectify: bool = True) -> np.ndarray:
    """Compute the effective receptive field of the middle of a feature map, averaged over images.

    For an image x and the map y of the stage it is ``sum over colours of |d s / d x|`` with
    ``s = sum over channels of max(y[channel, middle], 0)``. A map with an even number of cells has two in the middle of each
    axis, and s is their sum. The ReLU is that of RepLKNet's script (Ding et al., CVPR 2022). Without it, s is a constant
    where the map comes out of a LayerNorm with equal weights, and the gradient is rounding noise.

    Args:
        model: in evaluation mode; a model with a ``backbone``, or a module that gives a map or several of them.
        images: batches (B, 3, S, S), normalised.
        stage: number of the stage, from 1 on; the last one by default.
        rectify: whether to leave out negative channels.

    Returns:
        np.ndarray: (S, S), float64, not normalised.

    Raises:
        InputError: if there are no images, there is no such stage, or it gives no map or no gradient.
    """
    backbone = getattr(model, 'backbone', model)
    total, count = None, 0
    for batch in images:
        part = sum_erf(backbone, batch, stage, rectify)
        total, count = part if total is None else total + part, count + len(batch)
    if total is None:
        raise ParameterError('images', [], 'there must be at least one batch')
    return total / count


def sum_erf(backbone: nn.Module, batch: Tensor, stage: int | None = None, rectify: bool = True) -> np.ndarray:
    """Sum the maps of :func:`compute_erf` over the images of one batch."""
    batch = batch.detach().clone().requires_grad_()
    with torch.enable_grad():
        feature = get_stage_output(backbone, batch, stage)
        height, width = feature.shape[-2:]
        middle = feature[..., (height - 1) // 2:height // 2 + 1, (width - 1) // 2:width // 2 + 1]
        middle = (middle.relu() if rectify else middle).sum()
    if not middle.requires_grad:
        raise InputError(f'{type(backbone).__name__} gives no gradient of this stage by the image: it computes the stage '
                         'without a graph.')
    gradient, = torch.autograd.grad(middle, batch)
    return gradient.abs().double().sum((0, 1)).cpu().numpy()


def get_stage_output(backbone: nn.Module, batch: Tensor, stage: int | None = None) -> Tensor:
    """Run a backbone and return the map (B, C, H, W) of one of its stages.

    Raises:
        ParameterError: if the backbone does not give this stage; it lists those that it gives.
        InputError: if the output is no map.
    """
    outputs = backbone(batch)
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    indices = getattr(backbone, 'out_indices', None)
    indices = [indices] if isinstance(indices, int) else list(indices or ())
    known = len(indices) == len(outputs) and min(indices) >= 0
    stages = [index + 1 for index in indices] if known else list(range(1, len(outputs) + 1))
    if stage is not None and stage not in stages:
        raise ParameterError('stage', stage, f'{type(backbone).__name__} gives the stages {", ".join(map(str, stages))}')
    output = outputs[-1 if stage is None else stages.index(stage)]
    if not isinstance(output, Tensor) or output.ndim != 4:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f'{type(backbone).__name__} gives no feature map (B, C, H, W) but {given}, which has no middle.')
    return output


def compute_square_shares(field: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the share of a map (S, S) that each centred square holds.

    The sides of the squares are odd for an odd S and even for an even one, so that each has the middle of the map as its own.

    Returns:
        tuple: the sides in pixels, and the share of the whole inside each.

    Raises:
        InputError: if the map is not square, not finite, negative somewhere, or zero everywhere.
    """
    field = np.asarray(field, np.float64)
    if field.ndim != 2 or field.shape[0] != field.shape[1]:
        raise ParameterError('field', field.shape, 'it must be square')
    total = field.sum()
    if not np.isfinite(total) or field.min() < 0 or total == 0:
        raise InputError('the effective receptive field is zero everywhere, negative or not finite: the stage does not '
                         'depend on the images, or the weights are broken.')
    size = len(field)
    sides = np.arange(2 - size % 2, size + 1, 2)
    starts = (size - sides) // 2
    shares = [field[start:start + side, start:start + side].sum() / total for start, side in zip(starts, sides)]
    return sides, np.array(shares)


def find_square_sides(field: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> dict[float, int]:
    """Find the side in pixels of the smallest centred square that holds each share (threshold) of a map (S, S)."""
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise ParameterError('thresholds', threshold, 'each is above 0 and at most 1')
    sides, shares = compute_square_shares(field)
    return {threshold: int(sides[np.argmax(shares >= threshold)]) for threshold in thresholds}


def compute_area_ratios(field: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> dict[float, float]:
    """Compute how much of the image it takes to hold a share of the contributions (Ding et al., CVPR 2022, Table 10).

    Args:
        field: map of :func:`compute_erf`, (S, S).
        thresholds: shares between 0 and 1.

    Returns:
        dict: threshold -> area of the smallest centred square that holds that share / area of the image.
    """
    return {threshold: side**2 / field.size for threshold, side in find_square_sides(field, thresholds).items()}


def measure_erf(setup: Setup, stage: int | None = None) -> dict[str, Any]:
    """Measure the effective receptive field of several models on the same images and write the results.

    Files in ``setup.out``: ``erf.json`` (what is returned), ``erf.npz`` (the averaged maps), ``erf.png``, and ``sums/``, from
    which the same call continues after an interruption.

    Args:
        setup: the models and the images.
        stage: number of the stage, from 1 on; each model's last one by default.

    Returns:
        dict: plain data: size, images, and for each model the area ratios.

    Raises:
        UserError: if models, images or sizes do not fit.
    """
    check_int('batch_size', setup.batch_size)
    device = resolve_device(setup.device)
    images = ImageCrops(load_config(setup.models[0].config, setup.cfg_options), setup.num_images, setup.seed, setup.image_dir)
    extractors = [load_extractor(source, setup.cfg_options, setup.seed) for source in setup.models]
    for extractor in extractors:
        set_map_output(extractor.backbone)
    size = _choose_size(setup, extractors, stage, images)
    batches = split_batches(len(images), setup.batch_size)
    fields = []
    for extractor in extractors:
        extractor.to(device)
        total = sum_batches(setup.out / SUMS, ['erf', extractor.key, images.key, size, stage], batches,
                            functools.partial(_sum_batch, extractor, images, size, stage), extractor.source.name, setup.progress)
        extractor.to('cpu')
        fields.append(total / len(images))
    result = dict(
        kind='erf', size=size, stage=stage, images=len(images), images_from=images.origin, seed=setup.seed,
        thresholds=list(THRESHOLDS), maps='erf.npz', picture='erf.png', models=[
            dict(name=extractor.source.name, config=extractor.source.config, checkpoint=extractor.source.checkpoint,
                 weights=extractor.weights, map=f'map_{number}', sides=_to_json_keys(find_square_sides(field)),
                 area_ratios=_to_json_keys(compute_area_ratios(field)))
            for number, (extractor, field) in enumerate(zip(extractors, fields))
        ])
    write_arrays(setup.out / 'erf.npz', {f'map_{number}': field for number, field in enumerate(fields)})
    write_figure(setup.out / 'erf.png', draw_erf_figure(result, fields))
    write_json(setup.out / 'erf.json', result)
    return result


def _to_json_keys(values: dict[float, Any]) -> dict[str, Any]:
    return {f'{threshold:g}': value for threshold, value in values.items()}


def _sum_batch(extractor: FeatureExtractor, images: ImageCrops, size: int, stage: int | None,
               numbers: Sequence[int]) -> np.ndarray:
    """Sum the fields (size, size) of some images, by their numbers."""
    return sum_erf(extractor.backbone, extractor.prepare(images.cut(numbers, size), images.bgr), stage)


def _choose_size(setup: Setup, extractors: Sequence[FeatureExtractor], stage: int | None, images: ImageCrops) -> int:
    """Choose the side of the crops: as asked, or the largest with whole cells, one of them in the middle if possible."""
    if setup.size is not None:
        return check_int('size', setup.size)
    strides = []
    for extractor in extractors:
        with torch.no_grad():
            cells = get_stage_output(extractor.backbone, torch.zeros(1, 3, PROBE, PROBE), stage).shape[-1]
        strides.append(PROBE // cells)
    largest = min(images.find_smallest_side(setup.progress), LARGEST)
    whole = [size for size in range(largest, 0, -1) if all(size % stride == 0 for stride in strides)]
    if not whole:
        raise InputError(f'the images have {largest} pixels along their smallest side, less than the stride of '
                         f'{max(strides)}. Choose an earlier stage or larger images.')
    return next((size for size in whole if all(size // stride % 2 for stride in strides)), whole[0])


def format_erf_table(result: dict[str, Any]) -> str:
    """Format the area ratios of :func:`measure_erf` as a text table."""
    table = Table()
    table.add_column('model', overflow='fold')
    for threshold in result['thresholds']:
        table.add_column(f'{threshold:.0%}', justify='right', no_wrap=True)
    for model in result['models']:
        table.add_row(model['name'], *(f'{model["area_ratios"][key]:.1%} ({side} px)' for key, side in model['sides'].items()))
    size = result['size']
    return (f'Area of the smallest centred square that holds a share of the contributions, of an image of {size}x{size} '
            f'pixels ({result["images"]} images):\n{render_table(table, 110)}')


def draw_erf_figure(result: dict[str, Any], fields: Sequence[np.ndarray]) -> Figure:
    """Draw the maps of several models side by side on one colour scale, and below them how fast centred squares fill.

    Args:
        result: of :func:`measure_erf`.
        fields: the averaged map of each model, (S, S).
    """
    columns = len(fields) if len(fields) <= 5 else 4
    lines = -(-len(fields) // columns)
    figure = Figure(figsize=(max(3.3 * columns + 1, 6.6), 3.6 * lines + 4), layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=[3.6 * lines + 0.5, 3.5])
    axes = upper.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    shares = [field / field.sum() for field in fields]
    top = max(share.max() for share in shares)
    lowest = min(share[share > 0].min() for share in shares)
    norm = LogNorm(max(lowest, top / 10**DECADES), top)
    half = result['size'] / 2
    picture = None
    for number, axis in enumerate(axes.flat):
        if number >= len(fields):
            axis.axis('off')
            continue
        model = result['models'][number]
        picture = axis.imshow(np.maximum(shares[number], norm.vmin), norm=norm, cmap='inferno', interpolation='nearest',
                              extent=(-half, half, half, -half))
        for color, (threshold, side) in zip(COLORS, model['sides'].items()):
            axis.add_patch(
                Rectangle((-side / 2, -side / 2), side, side, fill=False, edgecolor=color, linewidth=1.3, path_effects=OUTLINE,
                          label=f'{float(threshold):.0%}'))
        axis.set_title(_wrap(model['name']), fontsize=10)
        axis.tick_params(labelsize=8)
    for axis in axes[-1]:
        axis.set_xlabel('pixels from the middle', fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel('pixels from the middle', fontsize=9)
    bar = upper.colorbar(picture, ax=axes, shrink=0.8 / lines**0.5, aspect=25, extend='min' if lowest < norm.vmin else 'neither')
    bar.set_label('share of the whole, per pixel', fontsize=9)
    stage = f'stage {result["stage"]}' if result['stage'] else 'the last stage'
    upper.suptitle(f'Effective receptive field of {stage}, {result["images"]} images', fontsize=12)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    upper.legend(handles, [f'holds {label}' for label in labels], loc='outside lower center', ncols=len(labels), fontsize=9,
                 facecolor='#444444', labelcolor='white')
    _draw_curves(lower, result, fields)
    return figure


def _draw_curves(part: Any, result: dict[str, Any], fields: Sequence[np.ndarray]) -> None:
    axis = part.subplots()
    for model, field, style in zip(result['models'], fields, _choose_styles(len(fields))):
        sides, shares = compute_square_shares(field)
        axis.plot(sides, shares, style, label=model['name'], linewidth=1.6)
    for threshold in result['thresholds']:
        axis.axhline(threshold, color='0.75', linewidth=0.8, zorder=0)
        axis.text(result['size'], threshold, f' {threshold:.0%}', fontsize=8, va='center')
    axis.set(xlim=(0, result['size']), ylim=(0, 1.02))
    axis.set_xlabel('side of the square around the middle, in pixels', fontsize=9)
    axis.yaxis.set_major_formatter(PercentFormatter(1.))
    axis.set_ylabel('share of the whole that is inside', fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8)


def _choose_styles(count: int) -> list[str]:
    """Choose line styles: more than one when ten colours do not suffice."""
    return [('-', '--', ':', '-.')[number // 10 % 4] for number in range(count)]


def _wrap(name: str, width: int = 30) -> str:
    """Break a long name into lines."""
    return '\n'.join(name[start:start + width] for start in range(0, len(name), width))


def read_erf_maps(folder: Path, result: dict[str, Any]) -> list[np.ndarray]:
    """Read the averaged maps that :func:`measure_erf` wrote beside its JSON file."""
    with np.load(Path(folder) / result['maps']) as content:
        return [content[model['map']] for model in result['models']]
