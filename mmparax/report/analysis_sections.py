"""The parts of the report about receptive fields, similarity of layers, routing and the benchmark."""
import json
import shlex
import statistics
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm

from mmparax.analysis.erf import DECADES, contained
from mmparax.analysis.routing_pictures import SITES, most_dependent
from mmparax.report.analyses import ADAROUTE, FOLDER, TOOLS, Found, applies, config_of
from mmparax.report.content import (
    NONE,
    Cell,
    Figure,
    Figures,
    Heading,
    Missing,
    Notes,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    series_keys,
)
from mmparax.report.figures import color_bar, curves_chart, matrix_chart
from mmparax.report.gather import Run
from mmparax.report.groups import Group, run_label, without_place, without_places
from mmparax.report.svg import data_uri
from mmparax.utils.tables import mean_and_spread

FIELD, SIMILARITY, DIFFERENCE = 'inferno', 'viridis', 'RdBu_r'
MOST_CLASSES = 30


def _of(kind: str, found: Found, groups: Sequence[Group]) -> Dict[int, List[Any]]:
    """Number of a group -> the results of those of its runs that have one."""
    results = {group.number: [found.results[kind][run.name] for run in group.runs if run.name in found.results[kind]]
               for group in groups}
    return {number: values for number, values in results.items() if values}


def _missing(kind: str, what: str, found: Found, groups: Sequence[Group]) -> List[Any]:
    """What of an analysis is not there, with the command that makes it."""
    runs = [run for group in groups for run in group.runs if applies(kind, run) and run.name not in found.results[kind]]
    blocks: List[Any] = [Notes(list(map(without_places, found.notes[kind])))] if found.notes[kind] else []
    if runs:
        names = ', '.join(run.name for run in runs[:3]) + (f' and {len(runs) - 3} more' if len(runs) > 3 else '')
        blocks.append(Missing(f'{what} not measured: {names}. This does it for the first of them; the report does it for all '
                              'with --analyse.', command_for(kind, runs[0])))
    return blocks


def command_for(kind: str, run: Run) -> str:
    """The command line that makes an analysis of a run; places that are only of this machine are called WORK_DIR."""
    here = Path.cwd()

    def place(path: Path) -> str:
        if path.is_relative_to(here):
            return shlex.quote(str(path.relative_to(here)))
        inside = path.is_relative_to(run.outer)
        return shlex.quote(f'WORK_DIR/{path.relative_to(run.outer)}' if inside else without_place(str(path)))

    checkpoint = place(run.checkpoint) if run.checkpoint else 'CHECKPOINT'
    return f'{TOOLS[kind]} {place(config_of(run))} {checkpoint} --out {place(run.outer / FOLDER / kind)}'


def _conditions(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """A sentence that warns if results were not obtained alike."""
    differing = [name.replace('_', ' ') for name in names if len({str(result.get(name)) for result in results}) > 1]
    return f' They were not measured alike: {", ".join(differing)} differ, so compare them with care.' if differing else ''


# ---- effective receptive fields ----


def receptive_fields(groups: Sequence[Group], found: Found) -> Section:
    """On which pixels the middle of the last map depends."""
    section, results = Section('erf', 'Effective receptive field'), _of('erf', found, groups)
    shown = [group for group in groups if group.number in results]
    if shown:
        every = [result for values in results.values() for result in values]
        first = every[0]
        section.blocks.append(Text(
            f'How much each pixel of an image counts for the middle of the feature map of '
            f'{"stage %s" % first["stage"] if first.get("stage") else "the last stage"}: the gradient of its channels by the '
            f'input (Luo et al., 2016), averaged over {first["images"]} images of {first["size"]}x{first["size"]} pixels.'
            + _conditions(every, ('size', 'images', 'stage', 'seed'))))
        keys = list(first['model']['area_ratios'])
        section.blocks.append(Table(
            'Share of the image that the smallest centred square covers which holds so much of all contributions, %; larger '
            'is wider.' + _over_seeds(results), ['setting', *(f'{float(key):.0%}' for key in keys)],
            [[Cell(group.label, number=group.number),
              *(mean_and_spread([100 * result['model']['area_ratios'][key] for result in results[group.number]])
                if all(key in result['model']['area_ratios'] for result in results[group.number]) else NONE for key in keys)]
             for group in shown]))
        section.blocks += [_fields(shown, found), _contained(shown, found)]
    section.blocks += _missing('erf', 'Effective receptive fields', found, groups)
    return section


def _over_seeds(results: Mapping[int, Sequence[Any]]) -> str:
    return ' Mean ± standard deviation over seeds.' if any(len(values) > 1 for values in results.values()) else ''


def _fields(groups: Sequence[Group], found: Found) -> Pictures:
    """The map of the first run of each group, on one colour scale."""
    first = {group.number: next(run for run in group.runs if run.name in found.maps) for group in groups}
    shares = {number: found.maps[run.name] / found.maps[run.name].sum() for number, run in first.items()}
    top = max(share.max() for share in shares.values())
    low = max(min(np.percentile(share, 1) for share in shares.values()), top / 10**DECADES)
    norm, colors = LogNorm(low, top, clip=True), colormaps[FIELD]
    pictures = []
    for group in groups:
        pixels = (colors(norm(np.maximum(shares[group.number], low)))[..., :3] * 255).astype(np.uint8)
        pictures.append(Picture(
            data_uri(pixels, colors=256), f'effective receptive field of {group.label}: bright where pixels count',
            run_label(group, first[group.number]), True, group.number))
    return Pictures('Maps on one logarithmic colour scale, the middle of the feature map in the middle: pale yellow is the '
                    f'largest share that a pixel has in any of them, black 1/{top / low:,.0f} of it or less.', pictures)


def _contained(groups: Sequence[Group], found: Found) -> Figures:
    points = {group.number: [contained(found.maps[run.name]) for run in group.runs if run.name in found.maps]
              for group in groups}
    half = {number: [float(np.interp(0.5, shares, sides)) for sides, shares in curves] for number, curves in points.items()}
    alt = 'Share inside a centred square against its side; side of the square that holds half: ' + '; '.join(
        f'{group.label} {mean_and_spread(half[group.number], 0)} pixels' for group in groups) + '.'
    return Figures([Figure(curves_chart('erf-contained', points, 'side of the square, pixels', 'share inside', alt),
                           'How fast centred squares fill; lower is wider.', series_keys(groups))])


# ---- similarity of blocks ----


def similarities(groups: Sequence[Group], found: Found) -> Section:
    """How alike the features of the blocks are."""
    section, results = Section('cka', 'Similarity of blocks'), _of('cka', found, groups)
    shown = [group for group in groups if group.number in results]
    if shown:
        every = [result for values in results.values() for result in values]
        first = every[0]
        section.blocks.append(Text(
            'Linear CKA (Kornblith et al., 2019) between the outputs of all blocks: 1 for features that are the same up to '
            f'rotation and scale, about 0 for independent ones. {first["images"]} images of {first["size"]}x{first["size"]} '
            f'pixels, batches of {first["batch_size"]}.'
            + _conditions(every, ('size', 'images', 'batch_size', 'pool', 'seed'))))
        stages = sorted({stage for result in every for stage in result['model']['mean_off_diagonal_by_stage']}, key=int)
        section.blocks.append(Table(
            'Mean similarity of two different blocks; lower is more varied.' + _over_seeds(results),
            ['setting', 'all blocks', *(f'within stage {stage}' for stage in stages)],
            [[Cell(group.label, number=group.number),
              _mean([result['model']['mean_off_diagonal'] for result in results[group.number]]),
              *(_mean([result['model']['mean_off_diagonal_by_stage'].get(stage) for result in results[group.number]])
                for stage in stages)] for group in shown]))
        figures = []
        for group in shown:
            model = results[group.number][0]['model']
            mean = _mean([model['mean_off_diagonal']])
            run = next(run for run in group.runs if run.name in found.results['cka'])
            figures.append(Figure(matrix_chart(
                f'cka-{group.number}', _array(model['matrix']), model['labels'], model['labels'], Normalize(0, 1), SIMILARITY,
                'block', 'block', f'Matrix of the similarity of the blocks of {group.label}; mean off the diagonal {mean}.',
                square=True), f'{run_label(group, run)}: mean off the diagonal {mean}.',
                series_keys([group])))
        figures.append(Figure(color_bar('cka-scale', Normalize(0, 1), SIMILARITY, 'CKA'),
                              'Colours of the matrices; blocks are named stage.number.'))
        section.blocks.append(Figures(figures))
    section.blocks += _missing('cka', 'Similarity of blocks', found, groups)
    return section


def _mean(values: Sequence[Optional[float]], digits: int = 3) -> str:
    known = [value for value in values if value is not None]
    return mean_and_spread(known, digits) if known else NONE


def _array(rows: Sequence[Sequence[Optional[float]]]) -> np.ndarray:
    """With nan for None; short rows are filled up with it."""
    width = max(map(len, rows))
    return np.array([[np.nan if value is None else value for value in row] + [np.nan] * (width - len(row)) for row in rows])


# ---- routing ----


def routing(groups: Sequence[Group], found: Found) -> Section:
    """Which experts the routers of AdaRoute choose."""
    section, results = Section('routing', 'Routing'), _of('routing', found, groups)
    routed = [group for group in groups if group.first.method == ADAROUTE]
    if not routed:
        section.blocks.append(Text('None of the runs has routers: this is about AdaRoute.'))
        return section
    shown = [group for group in routed if group.number in results]
    if shown:
        columns: Dict[str, Callable[[List[Mapping[str, Any]]], str]] = {
            'dead experts': lambda found: _part(found, 'dead_experts', 'experts'),
            'gates that ignore the image': lambda found: _part(found, 'input_independent', 'groups_with_a_choice'),
            'entropy of mean usage': lambda found: _mean([summary['normalized']['entropy_of_mean'] for summary in found]),
            'mean entropy': lambda found: _mean([summary['normalized']['mean_entropy'] for summary in found]),
            'told by the image': lambda found: _mean([summary['normalized']['dependence'] for summary in found], 4),
            'variation': lambda found: _mean([summary['variation'] for summary in found])}
        section.blocks.append(Table(
            f'The gates over {results[shown[0].number][0]["images"]} images. Entropies are shares of log M: 1 for the mean '
            'usage means all experts are used alike, 0 for the mean entropy that each image takes one expert; their '
            'difference is what the choice tells of the image. Variation: spread of the gates over the images relative to '
            'their mean.'
            + _over_seeds(results), ['setting', *columns],
            [[Cell(group.label, number=group.number), *(show([result['summary'] for result in results[group.number]])
                                                        for show in columns.values())] for group in shown]))
        for group in shown:
            section.blocks += _choices(group, results[group.number][0], found, len(shown) > 1)
    section.blocks += _missing('routing', 'Routing', found, groups)
    return section


def _part(summaries: Sequence[Mapping[str, Any]], name: str, whole: str) -> str:
    values = [summary[name] for summary in summaries]
    return f'{mean_and_spread(values) if len(set(values)) > 1 else values[0]} of {summaries[0][whole]}'


def _choices(group: Group, result: Mapping[str, Any], found: Found, several: bool) -> List[Any]:
    """Usage of the experts, layer by layer, and by class, for one run of a group."""
    run = next(run for run in group.runs if run.name in found.results['routing'])
    name = run_label(group, run)
    blocks: List[Any] = [Heading(name)] if several or len(group.runs) > 1 else []
    if result['warnings']:
        blocks.append(Notes(result['warnings']))
    adapters = [adapter for adapter in result['adapters'] if adapter['num_experts'] > 1]
    if not adapters:
        return [*blocks, Text('Every router has a single expert: there is no choice.')]
    layers = [f'{adapter["stage"]}.{adapter["block"]} {SITES.get(adapter["site"], adapter["site"])}' for adapter in adapters]
    kinds = list(dict.fromkeys(kind for adapter in adapters for kind in adapter['groups']))
    usage = {kind: _array([_relative_usage(adapter, kind) for adapter in adapters]) for kind in kinds}
    norm = TwoSlopeNorm(1., 0., max(2., *(float(np.nanmax(values)) for values in usage.values())))
    experts = [str(number + 1) for number in range(max(adapter['num_experts'] for adapter in adapters))]
    figures = [Figure(matrix_chart(f'usage-{group.number}-{number}', values, layers, experts[:values.shape[1]], norm,
                                   DIFFERENCE, 'expert', '', f'{kind}: mean usage of each expert in each layer of {name}, '
                                   f'between {np.nanmin(values):.2f} and {np.nanmax(values):.2f} of an equal share.'),
                      f'Gates of {kind}: mean usage of the experts, layer by layer.')
               for number, (kind, values) in enumerate(usage.items())]
    figures.append(Figure(color_bar(f'usage-scale-{group.number}', norm, DIFFERENCE, 'usage · M'),
                          'Colours of usage: 1 is an equal share.'))
    blocks.append(Figures(figures))
    if result.get('classes'):
        blocks.append(Figures(_by_class(group, result, name)))
    return blocks


def _relative_usage(adapter: Mapping[str, Any], kind: str) -> List[Optional[float]]:
    """Mean share of each expert in the gates of one kind, relative to an equal one."""
    shares = adapter['groups'].get(kind, {}).get('usage', [])
    return [share * adapter['num_experts'] for share in shares] or [None]


def _by_class(group: Group, result: Mapping[str, Any], name: str) -> List[Figure]:
    """How the usage in the images with a class differs, for the gates that tell most of the image."""
    kind, classes = most_dependent(result)[1], result['classes']
    experts = {adapter['center']: adapter['num_experts'] for adapter in result['adapters']}
    centers = [center for center in classes['centers'] if experts[center] > 1 and kind in classes['centers'][center]]
    present = [number for number, count in enumerate(classes['images']) if count]
    values = _array([[None if value is None else value * experts[center] for center in centers
                      for value in classes['centers'][center][kind][number]] for number in present])
    strongest = sorted(np.argsort(-np.nanmax(np.abs(values), 1))[:MOST_CLASSES].tolist())
    columns = [f'{center} {number + 1}' for center in centers for number in range(experts[center])]
    limit = max(float(np.nanmax(np.abs(values))), 1e-3)
    labels = [f'{classes["names"][present[place]]} ({classes["images"][present[place]]})' for place in strongest]
    left_out = len(present) - len(strongest)
    note = f' {left_out} classes with smaller differences are left out.' if left_out else ''
    return [
        Figure(matrix_chart(f'classes-{group.number}', values[strongest], labels, columns, Normalize(-limit, limit),
                            DIFFERENCE, 'expert', '', f'How the usage of the experts of {name} differs in the images with '
                            f'each class, at most {limit:.3f} of an equal share.'),
               f'Gates of {kind}, which tell most of the image: usage in the images with a class (their number) minus that in '
               f'all, mean over the layers.{note}'),
        Figure(color_bar(f'classes-scale-{group.number}', Normalize(-limit, limit), DIFFERENCE, 'difference of usage · M'),
               'Colours of the differences.')]


# ---- benchmark ----


def benchmark_blocks(files: Sequence[Path]) -> List[Any]:
    """The tables of the benchmark's JSON files."""
    blocks: List[Any] = []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding='utf-8'))
            blocks += [_comparison(content, comparison) for comparison in content['comparisons']]
        except (OSError, ValueError, KeyError, TypeError) as error:
            blocks.append(Notes([f'{without_place(str(file))} is no result of the benchmark ({type(error).__name__}).']))
    if not files:
        blocks.append(Missing('No benchmark was found. This times training steps of backbones side by side, on random data; '
                              'the report takes work_dirs/benchmark/*.json, or what --benchmark names.',
                              'python tools/analysis_tools/benchmark.py --preset cpu'))
    return blocks


def _comparison(content: Mapping[str, Any], comparison: Mapping[str, Any]) -> Table:
    rows, environment = comparison['rows'], content['environment']
    columns: Dict[str, Callable[[Mapping[str, Any]], Optional[str]]] = {
        'efficient attention': lambda row: {True: 'on', False: 'off'}.get(row['efficient_attention']), 'operations': lambda row: row['ops'],
        'precision': lambda row: row['dtype'],
        'images / s': lambda row: row['error'] or _number(row['images_per_second'], '.3g'),
        'speed, full = 1': lambda row: _number(row['ratio_to_full'], '.3f'),
        'speed, published (L40S)': lambda row: _number(row['published_ratio_to_full'], '.3f'),
        'peak memory, GB': lambda row: _number(row['peak_memory_bytes'], '.3f', 1e9),
        'memory, full = 1': lambda row: _number(row['memory_ratio_to_full'], '.3f'),
        'inference, images / s': lambda row: _number(row['inference_images_per_second'], '.3g')}
    texts = {name: [show(row) for row in rows] for name, show in columns.items()}
    used = [name for name, values in texts.items() if any(values)]
    stopped = f' {comparison["stopped"]}.' if comparison.get('stopped') else ''
    rounds = statistics.median(row['rounds'] for row in rows)
    return Table(
        f'Benchmark of training steps, measured here: {comparison["backbone"]}, {"x".join(map(str, comparison["size"]))} '
        f'pixels, batch {comparison["batch"]}, {environment["device"]}, {environment["threads"]} thread(s), torch '
        f'{environment["torch"]}, {rounds:g} rounds. Backbones alone, random data. "Full" is full fine-tuning.{stopped}',
        ['method', *used],
        [[row['method'], *(texts[name][number] or NONE for name in used)] for number, row in enumerate(rows)])


def _number(value: Optional[float], form: str, unit: float = 1) -> Optional[str]:
    return None if value is None else f'{value / unit:{form}}'
