"""Minibatch linear CKA (Kornblith et al., ICML 2019; Nguyen et al., ICLR 2021): how similar the features of two blocks are."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from mmparax.analysis.blocks import NamedBlock, record_outputs, select_blocks
from mmparax.analysis.images import ImageCrops
from mmparax.analysis.measuring import LARGEST, SUMS, Setup, split_batches, sum_batches, write_figure, write_json
from mmparax.analysis.models import FeatureExtractor, load_extractor
from mmparax.config.files import load_config
from mmparax.errors import InputError, ParameterError, check_choice, check_int
from mmparax.utils.choices import POOLS
from mmparax.utils.devices import resolve_device
from mmparax.utils.tables import render_table

SMALLEST_BATCH = 4  # of the unbiased estimator
STEP = 32  # sizes are multiples of it, which every usual stride divides
CHUNK = 1 << 18  # values of a feature that are in float64 at a time
LABELS = 32  # along an axis of the picture, at most
Part = tuple[FeatureExtractor, list[NamedBlock]]  # a model and its blocks that are compared


def compute_gram(features: Tensor) -> Tensor:
    """Compute the Gram matrix (n, n) of n samples (n, ...), each flattened; float64, on the features' device."""
    flat = features.detach().flatten(1)
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat.device)
    for part in flat.split(max(CHUNK // len(flat), 1), 1):
        part = part.double()
        total += part @ part.T
    return total


def estimate_hsic(grams: Tensor) -> Tensor:
    """Estimate HSIC without bias (Song et al., JMLR 2012, equation 5) for every pair of features.

    With the diagonals of K and L set to zero the estimate is

        (tr(K L) + (1'K 1)(1'L 1) / ((n - 1)(n - 2)) - 2 (1'K L 1) / (n - 2)) / (n (n - 3)),

    computed as the inner product of U-centred matrices (Szekely and Rizzo, 2014), which is the same number and one matrix
    product for all pairs.

    Args:
        grams: (features, n, n), float64: the Gram matrix of each feature, all on the same n samples.

    Returns:
        Tensor: (features, features).

    Raises:
        ParameterError: if there are fewer than 4 samples.
    """
    count = grams.shape[-1]
    if count < SMALLEST_BATCH:
        raise ParameterError('batch_size', count, 'the unbiased estimator of HSIC needs at least '
                             f'{SMALLEST_BATCH} samples a batch')
    off_diagonal = 1 - torch.eye(count, dtype=grams.dtype, device=grams.device)
    centred = grams * off_diagonal
    rows, whole = centred.sum(-1, keepdim=True), centred.sum((-2, -1), keepdim=True)
    centred = centred - (rows + rows.mT) / (count - 2) + whole / ((count - 1) * (count - 2))
    flat = (centred * off_diagonal).flatten(1)
    return flat @ flat.T / (count * (count - 3))


def normalize_hsic(sums: np.ndarray) -> np.ndarray:
    """Turn sums of HSIC over batches, (features, features), into CKA: HSIC(i, j) / sqrt(HSIC(i, i) HSIC(j, j)).

    nan where a feature does not vary between samples.
    """
    own = np.sqrt(np.clip(np.diag(sums), 0, None))
    scale = own[:, None] * own[None]
    return np.divide(sums, scale, out=np.full(sums.shape, np.nan), where=scale > 0)


class MinibatchCKA:
    """Linear CKA between all pairs of some features, batch by batch.

    It keeps the sums over batches of the unbiased HSIC, one number a pair: memory does not grow with the samples, and the
    result depends on the batch size only by its noise.

    Example:
        >>> measure = MinibatchCKA()
        >>> for images in loader:
        ...     measure.update([first(images), second(images)])
        >>> measure.value()[0, 1]
    """

    def __init__(self):
        self.sums: np.ndarray | None = None

    def update(self, features: Sequence[Tensor]) -> None:
        """Add a batch.

        Args:
            features: for each feature a tensor (n, ...) of the same n samples, 4 at least.

        Raises:
            ParameterError: if there are too few samples, or another number of features than before.
        """
        if len({len(feature) for feature in features}) != 1:
            raise ParameterError('features', [tuple(feature.shape) for feature in features], 'all must have the same samples')
        if self.sums is not None and len(self.sums) != len(features):
            raise ParameterError('features', len(features), f'the batches before had {len(self.sums)}')
        values = estimate_hsic(torch.stack([compute_gram(feature) for feature in features])).cpu().numpy()
        self.sums = values if self.sums is None else self.sums + values

    def value(self) -> np.ndarray:
        """Return the CKA of each pair, (features, features): 1 if equal up to rotation and scale, about 0 if independent.

        Raises:
            InputError: before the first batch.
        """
        if self.sums is None:
            raise InputError('MinibatchCKA has no value before the first update().')
        return normalize_hsic(self.sums)


def pool_output(output: Tensor, pool: str) -> Tensor:
    """Turn a block's output into the feature of each image: all of it, or its mean over positions.

    Args:
        output: a map (B, C, H, W) or tokens (B, N, C).
        pool: ``'none'`` or ``'mean'``.
    """
    if pool == 'none' or output.ndim < 3:
        return output
    return output.mean(1) if output.ndim == 3 else output.flatten(2).mean(2)


def measure_cka(setup: Setup, blocks: Sequence[str] | None = None, pool: str = 'none') -> dict[str, Any]:
    """Measure the CKA between the blocks of each model, and between those of two models, on the same images.

    Files in ``setup.out``: ``cka.json`` (what is returned), ``cka.png``, and ``sums/``, from which the same call continues
    after an interruption.

    Args:
        setup: the models and the images.
        blocks: patterns of :func:`mmparax.analysis.blocks.select_blocks`; all blocks by default.
        pool: ``'none'``: an image's feature is the whole output, flattened; ``'mean'``: its mean over positions.

    Returns:
        dict: plain data: for each model its blocks, their matrix and the means off its diagonal; ``cross`` for two models.

    Raises:
        UserError: if models, images, blocks or sizes do not fit.
    """
    check_choice('pool', pool, POOLS)
    if setup.batch_size < SMALLEST_BATCH:
        raise ParameterError('batch_size', setup.batch_size, 'the unbiased estimator of HSIC needs at least '
                             f'{SMALLEST_BATCH} images a batch')
    device = resolve_device(setup.device)
    images = ImageCrops(load_config(setup.models[0].config, setup.cfg_options), setup.num_images, setup.seed, setup.image_dir)
    if len(images) < setup.batch_size:
        raise ParameterError('batch_size', setup.batch_size, f'there are {len(images)} images, which do not fill a batch',
                             f'Use more images, or a batch of {SMALLEST_BATCH} or more.')
    batches = split_batches(len(images), setup.batch_size)
    batches = [batch for batch in batches if len(batch) == setup.batch_size]  # every batch weighs the same
    extractors = [load_extractor(source, setup.cfg_options, setup.seed) for source in setup.models]
    parts: list[Part] = [(extractor, _select_two_or_more(extractor, blocks)) for extractor in extractors]
    size = _choose_size(setup, images)

    def measure(together: Sequence[Part]) -> np.ndarray:
        """Measure the matrix of all blocks of the models of ``together``."""
        for extractor, _ in together:
            extractor.to(device)
        key = ['cka', images.key, size, pool, [[extractor.key, [block.name for block in own]] for extractor, own in together]]
        total = sum_batches(setup.out / SUMS, key, batches,
                            lambda numbers: _estimate_batch(together, images.cut(numbers, size), images.bgr, pool),
                            ' and '.join(extractor.source.name for extractor, _ in together), setup.progress)
        for extractor, _ in together:
            extractor.to('cpu')
        return normalize_hsic(total)

    if len(parts) == 2:  # side by side: their matrices and the one between them are parts of one
        whole, split = measure(parts), len(parts[0][1])
        matrices, cross = [whole[:split, :split], whole[split:, split:]], whole[:split, split:]
    else:
        matrices, cross = [measure([part]) for part in parts], None
    result: dict[str, Any] = dict(kind='cka', size=size, pool=pool, images=sum(map(len, batches)), batch_size=setup.batch_size,
                                  images_from=images.origin, seed=setup.seed, picture='cka.png',
                                  models=[_summarize_model(*part, matrix) for part, matrix in zip(parts, matrices)])
    if cross is not None:
        result['cross'] = dict(rows=extractors[0].source.name, columns=extractors[1].source.name, matrix=_to_lists(cross),
                               mean=_average(cross))
    write_figure(setup.out / 'cka.png', draw_cka_figure(result))
    write_json(setup.out / 'cka.json', result)
    return result


def _select_two_or_more(extractor: FeatureExtractor, patterns: Sequence[str] | None) -> list[NamedBlock]:
    blocks = select_blocks(extractor.backbone, patterns)
    if len(blocks) < 2:
        raise ParameterError(
            'blocks', list(patterns or ()), f'{extractor.source.name} has {len(blocks)} such block, and two '
            'are the least that can be compared')
    return blocks


def _choose_size(setup: Setup, images: ImageCrops) -> int:
    if setup.size is not None:
        return check_int('size', setup.size)
    largest = min(images.find_smallest_side(setup.progress), LARGEST)
    return largest // STEP * STEP or largest


@torch.no_grad()
def _estimate_batch(parts: Sequence[Part], crops: Sequence[Tensor], bgr: bool, pool: str) -> np.ndarray:
    """Estimate the HSIC of all pairs of blocks of one or two models on a batch."""
    grams: list[Tensor] = []
    for extractor, blocks in parts:
        with record_outputs(blocks, lambda output: compute_gram(pool_output(output, pool)).cpu()) as records:
            extractor.backbone(extractor.prepare(crops, bgr))
        silent = [block.name for block in blocks if block.name not in records]
        if silent:
            raise ParameterError('blocks', silent[0], f'{type(extractor.backbone).__name__} does not call this module')
        grams += [records[block.name] for block in blocks]
    wrong = {tuple(matrix.shape) for matrix in grams} - {(len(crops), len(crops))}
    if wrong:
        raise InputError(f'a selected module gives {wrong.pop()[0]} samples for {len(crops)} images (windows of them, '
                         'perhaps). Select other blocks.')
    return estimate_hsic(torch.stack(grams)).numpy()


def _summarize_model(extractor: FeatureExtractor, blocks: Sequence[NamedBlock], matrix: np.ndarray) -> dict[str, Any]:
    stages, source = np.array([block.stage for block in blocks]), extractor.source
    by_stage = {}
    for stage in sorted(set(stages.tolist())):
        inside = np.flatnonzero(stages == stage)
        by_stage[str(stage)] = average_off_diagonal(matrix[np.ix_(inside, inside)])
    return dict(name=source.name, config=source.config, checkpoint=source.checkpoint, weights=extractor.weights,
                labels=[block.label for block in blocks], blocks=[block.name for block in blocks], stages=stages.tolist(),
                matrix=_to_lists(matrix), mean_off_diagonal=average_off_diagonal(matrix), mean_off_diagonal_by_stage=by_stage)


def average_off_diagonal(matrix: np.ndarray) -> float | None:
    """Average a square matrix without its diagonal and without nan; None if nothing is left."""
    return _average(matrix[~np.eye(len(matrix), dtype=bool)])


def _average(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def _to_lists(matrix: np.ndarray) -> list[list[float | None]]:
    """For JSON, which has no nan."""
    return [[float(value) if np.isfinite(value) else None for value in row] for row in matrix]


def format_cka_table(result: dict[str, Any]) -> str:
    """Format the means of :func:`measure_cka` as a text table."""
    stages = sorted({stage for model in result['models'] for stage in model['mean_off_diagonal_by_stage']}, key=int)
    table = Table()
    table.add_column('model', overflow='fold')
    for column in ('all blocks', *(f'stage {stage}' if stage != '0' else 'in no stage' for stage in stages)):
        table.add_column(column, justify='right', no_wrap=True)
    for model in result['models']:
        by_stage = model['mean_off_diagonal_by_stage']
        table.add_row(
            model['name'],
            *(_format_value(value) for value in (model['mean_off_diagonal'], *(by_stage.get(stage) for stage in stages))))
    text = (f'Mean CKA of two different blocks ({result["images"]} images of {result["size"]}x{result["size"]} pixels, '
            f'batches of {result["batch_size"]}):\n{render_table(table, 110)}')
    cross = result.get('cross')
    if cross:
        text += f'\nMean CKA of a block of {cross["rows"]} and one of {cross["columns"]}: {_format_value(cross["mean"])}'
    return text


def _format_value(value: float | None) -> str:
    return '–' if value is None else f'{value:.3f}'


def draw_cka_figure(result: dict[str, Any]) -> Figure:
    """Draw the matrices of :func:`measure_cka` side by side on one colour scale, with lines between the stages."""
    models = result['models']
    panels = [(model['matrix'], model, model,
               f'{model["name"]}\nmean off the diagonal {_format_value(model["mean_off_diagonal"])}') for model in models]
    if 'cross' in result:
        panels.append((result['cross']['matrix'], *models, f'between the two\nmean {_format_value(result["cross"]["mean"])}'))
    columns = min(len(panels), 2 if len(panels) == 4 else 3 if len(panels) <= 6 else 4)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(max(4.2 * columns + 0.8, 6), 4.4 * lines + 0.6), layout='constrained')
    axes = figure.subplots(lines, columns, squeeze=False)
    picture = None
    for number, axis in enumerate(axes.flat):
        if number >= len(panels):
            axis.axis('off')
            continue
        matrix, rows, across, title = panels[number]
        values = np.array([[np.nan if value is None else value for value in row] for row in matrix])
        picture = axis.imshow(values, vmin=0, vmax=1, cmap='viridis', interpolation='nearest')
        axis.set_title(title, fontsize=10)
        shown = _choose_ticks(across)
        axis.set_xticks(shown, [across['labels'][tick] for tick in shown], rotation=90, fontsize=8)
        shown = _choose_ticks(rows)
        axis.set_yticks(shown, [rows['labels'][tick] for tick in shown], fontsize=8)
        for place in _find_borders(across):
            axis.axvline(place, color='white', linewidth=1)
        for place in _find_borders(rows):
            axis.axhline(place, color='white', linewidth=1)
        axis.set_xlabel('block' + (f' of {across["name"]}' if across is not rows else ' (stage.number)'), fontsize=9)
        axis.set_ylabel('block' + (f' of {rows["name"]}' if across is not rows else ' (stage.number)'), fontsize=9)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8 / lines**0.5, aspect=25)
    bar.set_label('CKA (1: the same up to rotation and scale)', fontsize=9)
    figure.suptitle(f'Linear CKA between blocks, {result["images"]} images', fontsize=12)
    return figure


def _choose_ticks(model: dict[str, Any]) -> list[int]:
    """Choose the blocks that get a label: all, or every second, third, ... of many."""
    count = len(model['labels'])
    return list(range(0, count, -(-count // LABELS)))


def _find_borders(model: dict[str, Any]) -> list[float]:
    """Find the places between two stages."""
    stages = model['stages']
    return [number - 0.5 for number in range(1, len(stages)) if stages[number] != stages[number - 1]]
