"""Minibatch linear CKA (Kornblith et al., ICML 2019; Nguyen et al., ICLR 2021): how alike the features of two blocks are."""
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from mmparax.analysis.features import (
    Block,
    FeatureExtractor,
    checked_device,
    chosen_blocks,
    load_extractor,
    read_config,
    recorded,
)
from mmparax.analysis.images import Images
from mmparax.analysis.measuring import LARGEST, SUMS, Setup, batches_of, summed, write_figure, write_json
from mmparax.errors import InputError, ParameterError, check_choice, check_int
from mmparax.utils.tables import as_text

SMALLEST_BATCH = 4  # of the unbiased estimator
POOLS = ('none', 'mean')
STEP = 32  # sizes are multiples of it, which every usual stride divides
CHUNK = 1 << 18  # values of a feature that are in float64 at a time
LABELS = 32  # along an axis of the picture, at most


def gram(features: Tensor) -> Tensor:
    """The matrix (n, n) of inner products of n samples (n, ...), each flattened; float64, on the features' device."""
    flat = features.detach().flatten(1)
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat.device)
    for part in flat.split(max(CHUNK // len(flat), 1), 1):
        part = part.double()
        total += part @ part.T
    return total


def hsic(grams: Tensor) -> Tensor:
    """The unbiased estimate of HSIC (Song et al., JMLR 2012, equation 5) of every pair of features.

    With the diagonals of K and L set to zero it is

        (tr(K L) + (1'K 1)(1'L 1) / ((n - 1)(n - 2)) - 2 (1'K L 1) / (n - 2)) / (n (n - 3)),

    computed as the inner product of U-centred matrices (Szekely and Rizzo, 2014), which is the same number and one matrix
    product for all pairs.

    Args:
        grams: (features, n, n), float64: a Gram matrix of each of the features on the same n samples.

    Returns:
        Tensor: (features, features).

    Raises:
        InputError: if there are fewer than 4 samples.
    """
    count = grams.shape[-1]
    if count < SMALLEST_BATCH:
        raise ParameterError('batch size', count, f'the unbiased estimator of HSIC needs at least {SMALLEST_BATCH} samples a batch')
    off_diagonal = 1 - torch.eye(count, dtype=grams.dtype, device=grams.device)
    centred = grams * off_diagonal
    rows, whole = centred.sum(-1, keepdim=True), centred.sum((-2, -1), keepdim=True)
    centred = centred - (rows + rows.mT) / (count - 2) + whole / ((count - 1) * (count - 2))
    flat = (centred * off_diagonal).flatten(1)
    return flat @ flat.T / (count * (count - 3))


def similarity(sums: np.ndarray) -> np.ndarray:
    """CKA from sums of HSIC over batches, (features, features): HSIC(i, j) / sqrt(HSIC(i, i) HSIC(j, j)).

    nan where a feature does not vary between samples.
    """
    own = np.sqrt(np.clip(np.diag(sums), 0, None))
    scale = own[:, None] * own[None]
    return np.divide(sums, scale, out=np.full(sums.shape, np.nan), where=scale > 0)


class MinibatchCKA:
    """Linear CKA between all pairs of some features, batch by batch.

    What is kept are sums over batches of the unbiased HSIC, one number a pair: memory does not grow with the samples, and
    the result does not depend on the batch size but for its noise.

    Example:
        >>> measure = MinibatchCKA()
        >>> for images in loader:
        ...     measure.update([first(images), second(images)])
        >>> measure.value()[0, 1]
    """

    def __init__(self):
        self.sums: Optional[np.ndarray] = None

    def update(self, features: Sequence[Tensor]) -> None:
        """Add a batch: for each of the features a tensor (n, ...) of the same n samples, 4 at least.

        Raises:
            InputError: if there are too few samples, or another number of features than before.
        """
        if len({len(feature) for feature in features}) != 1:
            raise ParameterError('features', [tuple(feature.shape) for feature in features], 'all are of the same samples')
        if self.sums is not None and len(self.sums) != len(features):
            raise ParameterError('features', len(features), f'the batches before had {len(self.sums)}')
        found = hsic(torch.stack([gram(feature) for feature in features])).cpu().numpy()
        self.sums = found if self.sums is None else self.sums + found

    def value(self) -> np.ndarray:
        """CKA of each pair, (features, features): 1 for equal up to rotation and scale, about 0 for independent ones."""
        if self.sums is None:
            raise InputError('MinibatchCKA has no value before the first update().')
        return similarity(self.sums)


def pooled(output: Tensor, pool: str) -> Tensor:
    """What of a block's output is the feature of an image: all of it, or its mean over positions.

    Args:
        output: a map (B, C, H, W) or tokens (B, N, C).
        pool: ``'none'`` or ``'mean'``.
    """
    if pool == 'none' or output.ndim < 3:
        return output
    return output.mean(1) if output.ndim == 3 else output.flatten(2).mean(2)


def measure_cka(setup: Setup, blocks: Optional[Sequence[str]] = None, pool: str = 'none') -> Dict[str, Any]:
    """Measure the CKA between the blocks of each model, and between those of two models, on the same images.

    Files in ``setup.out``: ``cka.json`` (what is returned), ``cka.png``, and ``sums/``, from which the same call goes on after
    an interruption.

    Args:
        setup: the models and the images.
        blocks: patterns of :func:`mmparax.analysis.features.chosen_blocks`; all blocks by default.
        pool: ``'none'``: an image's feature is the whole output, flattened; ``'mean'``: its mean over positions.

    Returns:
        dict: plain data: for each model its blocks, their matrix and the means off its diagonal; ``cross`` for two models.

    Raises:
        UserError: what is wrong with models, images, blocks or sizes.
    """
    check_choice('--pool', pool, POOLS)
    if setup.batch_size < SMALLEST_BATCH:
        raise ParameterError('--batch-size', setup.batch_size, 'the unbiased estimator of HSIC needs at least '
                        f'{SMALLEST_BATCH} images a batch')
    device = checked_device(setup.device)
    images = Images(read_config(setup.models[0], setup.cfg_options), setup.num_images, setup.seed, setup.images)
    if len(images) < setup.batch_size:
        raise ParameterError('--batch-size', setup.batch_size, f'there are {len(images)} images, which do not fill a batch',
                        f'Use more images, or a batch of {SMALLEST_BATCH} or more.')
    batches = batches_of(len(images), setup.batch_size)
    batches = [batch for batch in batches if len(batch) == setup.batch_size]  # every batch weighs the same
    extractors = [load_extractor(source, setup.cfg_options, setup.seed) for source in setup.models]
    chosen = [_chosen(extractor, blocks) for extractor in extractors]
    size = _size(setup, images)
    # Two models run side by side: their matrices and the one between them are parts of one.
    groups = [[0, 1]] if len(extractors) == 2 else [[number] for number in range(len(extractors))]
    matrices: List[np.ndarray] = []
    cross = None
    for group in groups:
        for number in group:
            extractors[number].to(device)
        parts = [(extractors[number], chosen[number]) for number in group]
        key = ['cka', images.key, size, pool, [[extractor.key, [block.name for block in found]] for extractor, found in parts]]
        total = summed(setup.out / SUMS, key, batches,
                       lambda numbers: _batch(parts, images.crops(numbers, size), images.bgr, pool),
                       ' and '.join(extractor.source.name for extractor, _ in parts), setup.progress)
        for number in group:
            extractors[number].to('cpu')
        matrix, split = similarity(total), len(parts[0][1])
        matrices += [matrix[:split, :split]] + ([matrix[split:, split:]] if len(group) == 2 else [])
        cross = matrix[:split, split:] if len(group) == 2 else None
    result: Dict[str, Any] = dict(
        kind='cka', size=size, pool=pool, images=sum(map(len, batches)), batch_size=setup.batch_size,
        images_from=images.origin, seed=setup.seed, picture='cka.png',
        models=[_summary(extractor, found, matrix) for extractor, found, matrix in zip(extractors, chosen, matrices)])
    if cross is not None:
        result['cross'] = dict(rows=extractors[0].source.name, columns=extractors[1].source.name, matrix=_plain(cross),
                               mean=_mean(cross))
    write_figure(setup.out / 'cka.png', cka_figure(result))
    write_json(setup.out / 'cka.json', result)
    return result


def _chosen(extractor: FeatureExtractor, patterns: Optional[Sequence[str]]) -> List[Block]:
    found = chosen_blocks(extractor.backbone, patterns)
    if len(found) < 2:
        raise ParameterError('--blocks', list(patterns or ()), f'{extractor.source.name} has {len(found)} such block, and two are the '
                        'least that can be compared')
    return found


def _size(setup: Setup, images: Images) -> int:
    if setup.size is not None:
        return check_int('--size', setup.size)
    largest = min(images.smallest_side(setup.progress), LARGEST)
    return largest // STEP * STEP or largest


@torch.no_grad()
def _batch(parts: Any, crops: Sequence[Tensor], bgr: bool, pool: str) -> np.ndarray:
    """HSIC of all pairs of blocks of one or two models on a batch."""
    grams: List[Tensor] = []
    for extractor, found in parts:
        with recorded(found, lambda output: gram(pooled(output, pool)).cpu()) as kept:
            extractor.backbone(extractor.prepare(crops, bgr))
        silent = [block.name for block in found if block.name not in kept]
        if silent:
            raise ParameterError('--blocks', silent[0], f'{type(extractor.backbone).__name__} does not call this module')
        grams += [kept[block.name] for block in found]
    wrong = {tuple(matrix.shape) for matrix in grams} - {(len(crops), len(crops))}
    if wrong:
        raise InputError(f'a chosen module gives {wrong.pop()[0]} samples for {len(crops)} images (windows of them, '
                             'perhaps): choose others by --blocks.')
    return hsic(torch.stack(grams)).numpy()


def _summary(extractor: FeatureExtractor, found: Sequence[Block], matrix: np.ndarray) -> Dict[str, Any]:
    stages = np.array([block.stage for block in found])
    by_stage = {}
    for stage in sorted(set(stages.tolist())):
        inside = np.flatnonzero(stages == stage)
        by_stage[str(stage)] = off_diagonal_mean(matrix[np.ix_(inside, inside)])
    return dict(name=extractor.source.name, config=extractor.source.config, checkpoint=extractor.source.checkpoint, weights=extractor.weights,
                labels=[block.label for block in found], blocks=[block.name for block in found], stages=stages.tolist(),
                matrix=_plain(matrix), mean_off_diagonal=off_diagonal_mean(matrix), mean_off_diagonal_by_stage=by_stage)


def off_diagonal_mean(matrix: np.ndarray) -> Optional[float]:
    """The mean of a square matrix without its diagonal and without nan; None if nothing is left."""
    return _mean(matrix[~np.eye(len(matrix), dtype=bool)])


def _mean(values: np.ndarray) -> Optional[float]:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def _plain(matrix: np.ndarray) -> List[List[Optional[float]]]:
    return [[float(value) if np.isfinite(value) else None for value in row] for row in matrix]


def cka_table(result: Dict[str, Any]) -> str:
    """The means of :func:`measure_cka` as a text table."""
    stages = sorted({stage for model in result['models'] for stage in model['mean_off_diagonal_by_stage']}, key=int)
    table = Table()
    table.add_column('model', overflow='fold')
    for column in ('all blocks', *(f'stage {stage}' if stage != '0' else 'in no stage' for stage in stages)):
        table.add_column(column, justify='right', no_wrap=True)
    for model in result['models']:
        by_stage = model['mean_off_diagonal_by_stage']
        table.add_row(model['name'], *(_shown(value) for value in
                                       (model['mean_off_diagonal'], *(by_stage.get(stage) for stage in stages))))
    text = (f'Mean CKA of two different blocks ({result["images"]} images of {result["size"]}x{result["size"]} pixels, '
            f'batches of {result["batch_size"]}):\n{as_text(table, 110)}')
    cross = result.get('cross')
    if cross:
        text += f'\nMean CKA of a block of {cross["rows"]} and one of {cross["columns"]}: {_shown(cross["mean"])}'
    return text


def _shown(value: Optional[float]) -> str:
    return '–' if value is None else f'{value:.3f}'


def cka_figure(result: Dict[str, Any]) -> Figure:
    """The matrices of :func:`measure_cka` side by side on one colour scale, with lines between the stages."""
    models = result['models']
    panels = [(model['matrix'], model, model, f'{model["name"]}\nmean off the diagonal {_shown(model["mean_off_diagonal"])}')
              for model in models]
    if 'cross' in result:
        panels.append((result['cross']['matrix'], *models, f'between the two\nmean {_shown(result["cross"]["mean"])}'))
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
        shown = _ticks(across)
        axis.set_xticks(shown, [across['labels'][tick] for tick in shown], rotation=90, fontsize=8)
        shown = _ticks(rows)
        axis.set_yticks(shown, [rows['labels'][tick] for tick in shown], fontsize=8)
        for place in _borders(across):
            axis.axvline(place, color='white', linewidth=1)
        for place in _borders(rows):
            axis.axhline(place, color='white', linewidth=1)
        axis.set_xlabel('block' + (f' of {across["name"]}' if across is not rows else ' (stage.number)'), fontsize=9)
        axis.set_ylabel('block' + (f' of {rows["name"]}' if across is not rows else ' (stage.number)'), fontsize=9)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8 / lines**0.5, aspect=25)
    bar.set_label('CKA (1: the same up to rotation and scale)', fontsize=9)
    figure.suptitle(f'Linear CKA between blocks, {result["images"]} images', fontsize=12)
    return figure


def _ticks(model: Dict[str, Any]) -> List[int]:
    """Which blocks get a label: all, or every second, third, ... of many."""
    count = len(model['labels'])
    return list(range(0, count, -(-count // LABELS)))


def _borders(model: Dict[str, Any]) -> List[float]:
    stages = model['stages']
    return [number - 0.5 for number in range(1, len(stages)) if stages[number] != stages[number - 1]]
