"""Pictures of a routing measurement; each is drawn from the content of routing.json."""
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mmparax.analysis.measuring import write_figure
from mmparax.checks.gates import FIXED_VARIATION
from mmparax.utils.text import summarize_names

SITES = dict(after_token_mixer='token mixer', after_channel_mixer='channel mixer', after_block='block')
MOST_NUMBERS = 6  # experts up to which the cells of a map have numbers
MOST_CLASSES = 40
MOST_COLUMNS = 30  # experts up to which each has its name below a map of classes
LOWEST = 1e-4  # variation that is drawn
COLORS = 'RdBu_r'
Result = Mapping[str, Any]
Values = Callable[[Mapping[str, Any], str], Sequence[float] | None]
Shade = Callable[[float, int], float]


def draw_usage(result: Result, path: Path) -> None:
    """Draw layers x experts for each group of gates: mean usage relative to an equal share, 1/M; a cross: dead.

    Args:
        result: content of routing.json.
        path: PNG file to write.
    """

    def values(adapter: Mapping[str, Any], group: str) -> list[float]:
        return [share * adapter['num_experts'] for share in adapter['groups'][group]['usage']]

    def shade(value: float, experts: int) -> float:
        """From -1 (unused) over 0 (an equal share) to 1 (used alone), so that stages with few and many experts compare."""
        return value - 1 if value < 1 else (value - 1) / (experts - 1)

    figure, grid = _draw_layers(result, values, shade, '{:.2f}')
    figure.suptitle(f'Mean usage of the experts over {result["images"]} images, relative to an equal share', fontsize=13)
    _add_colorbar(figure, grid, 1.).set_ticks([-1, 0, 1], labels=['0: unused (×: dead)', '1: an equal share', 'M: used alone'])
    write_figure(path, figure)


def draw_class_layers(result: Result, name: str, path: Path) -> None:
    """Draw layers x experts for one class: usage in its images minus that in all, relative to an equal share.

    Args:
        result: content of routing.json.
        name: a class of ``result['classes']['layers']``.
        path: PNG file to write.
    """
    nothing = explain_class(result, name)
    if nothing:
        _draw_sentence(f'Usage of the experts in the images with "{name}"', nothing, path)
        return
    layers = result['classes']['layers'][name]

    def values(adapter: Mapping[str, Any], group: str) -> list[float] | None:
        found = layers[adapter['name']][group]
        return None if None in found else [difference * adapter['num_experts'] for difference in found]

    limit = _find_limit(values(adapter, group) for adapter in result['adapters'] for group in adapter['groups'])
    figure, grid = _draw_layers(result, values, lambda value, experts: value / limit, '{:+.2f}')
    count = result['classes']['images'][result['classes']['names'].index(name)]
    figure.suptitle(f'Usage of the experts in the {count} images with "{name}", minus that in all {result["images"]}',
                    fontsize=13)
    _add_colorbar(figure, grid, limit).set_label('difference relative to an equal share (×: dead)')
    write_figure(path, figure)


def explain_class(result: Result, name: str) -> str:
    """Why a picture of a class would say nothing, as a sentence; empty if it says something."""
    count = result['classes']['images'][result['classes']['names'].index(name)]
    if count == 0:
        return f'None of the {result["images"]} images has "{name}".'
    if count == result['images']:
        return f'"{name}" is in every one of the {count} images, so there are none without it to compare with.'
    return ''


def _draw_sentence(title: str, sentence: str, path: Path) -> None:
    """Write a picture that says why there is none."""
    figure = Figure(figsize=(8, 1.6))
    figure.suptitle(title, fontsize=12)
    figure.text(0.5, 0.4, sentence, ha='center', va='center', fontsize=10, wrap=True)
    write_figure(path, figure)


def _find_limit(rows: Iterable[Sequence[float] | None]) -> float:
    """Find the end of a colour scale that is the same on both sides of 0."""
    return max([abs(value) for row in rows if row is not None for value in row if not math.isnan(value)] + [1e-3])


def _add_colorbar(figure: Figure, axes: Any, limit: float) -> Any:
    return figure.colorbar(ScalarMappable(Normalize(-limit, limit), COLORS), ax=axes, location='bottom', shrink=0.5, aspect=40,
                           pad=0.02)


def _draw_layers(result: Result, values: Values, shade: Shade, number: str) -> tuple[Figure, np.ndarray]:
    """Draw one map for each stage (lines) and group of gates (columns)."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for adapter in result['adapters']:
        stages.setdefault(_name_stage(adapter), []).append(adapter)
    groups = list(dict.fromkeys(group for adapter in result['adapters'] for group in adapter['groups']))
    heights = [len(adapters) for adapters in stages.values()]
    widest = max(adapter['num_experts'] for adapter in result['adapters'])
    figure = Figure(figsize=(2.6 + len(groups) * max(1.7, 0.24 * widest), 1.9 + 0.26 * sum(heights) + 0.5 * len(stages)),
                    layout='constrained')
    grid = figure.subplots(len(stages), len(groups), squeeze=False, gridspec_kw=dict(height_ratios=heights))
    for line, (stage, adapters) in enumerate(stages.items()):
        for column, group in enumerate(groups):
            axis = grid[line, column]
            if line == 0:
                axis.set_title(group, fontsize=11)
            _draw_map(axis, adapters, group, values, shade, number)
            names = [_name_layer(adapter) for adapter in adapters] if column == 0 else []
            axis.set_yticks(range(len(adapters)), names, fontsize=8)
        grid[line, 0].set_ylabel(stage, fontsize=11)
    for axis in grid[-1]:
        axis.set_xlabel('expert', fontsize=9)
    return figure, grid


def _name_stage(adapter: Mapping[str, Any]) -> str:
    return adapter['name'].rpartition('/block')[0]


def _name_layer(adapter: Mapping[str, Any]) -> str:
    site = SITES.get(adapter['site'], adapter['site'])
    return f'block {adapter["block"]}' + ('' if site == 'block' else f', {site}')


def _draw_map(axis: Axes, adapters: Sequence[Mapping[str, Any]], group: str, values: Values, shade: Shade, number: str) -> None:
    experts = adapters[0]['num_experts']
    axis.set_facecolor('lightgray')
    axis.set_xticks(range(experts), range(1, experts + 1), fontsize=8)
    if experts == 1:
        axis.set(xlim=(-0.5, 0.5), ylim=(len(adapters) - 0.5, -0.5))
        axis.text(0, (len(adapters) - 1) / 2, 'one expert:\nno choice', ha='center', va='center', fontsize=8)
        return
    rows = [values(adapter, group) or [math.nan] * experts for adapter in adapters]
    shades = [[shade(value, experts) for value in row] for row in rows]
    axis.imshow(shades, cmap=COLORS, norm=Normalize(-1, 1), aspect='auto', interpolation='nearest')
    for line, adapter in enumerate(adapters):
        dead = adapter['groups'][group]['dead_experts']
        for expert, value in enumerate(rows[line]):
            color = 'white' if abs(shades[line][expert]) > 0.66 else 'black'
            if expert + 1 in dead:
                axis.text(expert, line, '×', ha='center', va='center', fontsize=11, color=color)
            elif experts <= MOST_NUMBERS and not math.isnan(value):
                axis.text(expert, line, number.format(value), ha='center', va='center', fontsize=7, color=color)


def draw_entropy(result: Result, path: Path) -> None:
    """Draw layer by layer: entropy of the mean usage and mean entropy (above), and how much the gates vary (below).

    Args:
        result: content of routing.json; without a router that has a choice, the picture says so.
        path: PNG file to write.
    """
    adapters = [adapter for adapter in result['adapters'] if adapter['num_experts'] > 1]
    figure = Figure(figsize=(max(8., 2.5 + 0.3 * len(adapters)), 7.5), layout='constrained')
    upper, lower = figure.subplots(2, 1, sharex=True)
    figure.suptitle(f'Entropy and variation of the gates over {result["images"]} images', fontsize=13)
    if not adapters:
        upper.text(0.5, 0.5, 'every router has one expert: there is no choice', ha='center', transform=upper.transAxes)
    groups = list(dict.fromkeys(group for adapter in adapters for group in adapter['groups']))
    places = range(len(adapters))
    for place in places[1:]:
        if _name_stage(adapters[place]) != _name_stage(adapters[place - 1]):
            for axis in (upper, lower):
                axis.axvline(place - 0.5, color='gray', linewidth=0.5)
    for number, group in enumerate(groups):
        found = [adapter['groups'][group] for adapter in adapters]
        color = f'C{number}'
        upper.plot(places, [each['normalized']['entropy_of_mean'] for each in found], ':', color=color, linewidth=1.5)
        line = dict(marker='o', color=color, markersize=4)
        upper.plot(places, [each['normalized']['mean_entropy'] for each in found], label=group, **line)
        lower.plot(places, [max(each['variation'] or 0., LOWEST) for each in found], **line)
    upper.set_ylabel('entropy / log M')
    upper.set_title(
        'dotted: of the mean usage (1: all experts alike over the data); line: mean over the images\n'
        '(0: each image takes one expert); the gap: what the choice tells of the image', fontsize=9)
    lower.set_yscale('log')
    lower.axhline(FIXED_VARIATION, color='black', linewidth=0.8, linestyle='--')
    lower.set_ylabel('spread over the images / mean')
    lower.set_title(f'below the dashed line the gates do not depend on the input (less than {LOWEST:g} is drawn at {LOWEST:g})',
                    fontsize=9)
    lower.set_xticks(places, [f'{_name_stage(adapter)} {_name_layer(adapter)}' for adapter in adapters], rotation=90, fontsize=8)
    if groups:
        figure.legend(loc='outside lower center', ncol=len(groups), fontsize=9)
    write_figure(path, figure)


def draw_classes(result: Result, path: Path) -> None:
    """Draw classes x experts for each group of gates: usage in the images with a class minus that in all, mean over layers.

    Args:
        result: content of routing.json with ``classes``.
        path: PNG file to write.
    """
    classes, centers = result['classes'], result['classes']['centers']
    title = 'Usage of the experts in the images with a class (their number), minus that in all images'
    everywhere = [name for name, count in zip(classes['names'], classes['images']) if count == result['images']]
    if all(count in (0, result['images']) for count in classes['images']):
        _draw_sentence(
            title, f'Every class that occurs ({len(everywhere)}) is in every one of the {result["images"]} images, so '
            'there are none without it to compare with.', path)
        return
    experts = {adapter['center']: adapter['num_experts'] for adapter in result['adapters']}
    groups = list(dict.fromkeys(group for found in centers.values() for group in found))
    chosen = [center for center in centers if experts[center] > 1]
    tables = {
        group: [[
            math.nan if value is None else value * experts[center] for center in chosen
            for value in centers[center][group][number]
        ] for number in range(len(classes['names']))] for group in groups
    }
    strongest = {
        number: max((abs(value) for table in tables.values() for value in table[number]), default=0.)
        for number, count in enumerate(classes['images']) if 0 < count < result['images']
    }
    numbers = sorted(sorted(strongest, key=lambda number: -strongest[number])[:MOST_CLASSES])
    limit = _find_limit(table[number] for table in tables.values() for number in numbers)
    columns = sum(experts[center] for center in chosen)
    figure = Figure(figsize=(2.5 + len(groups) * max(1.7, 0.22 * columns), 2.4 + 0.26 * len(numbers)), layout='constrained')
    grid = figure.subplots(1, len(groups), squeeze=False)[0]
    for axis, group in zip(grid, groups):
        axis.set_title(group, fontsize=11)
        if not chosen:
            axis.text(0.5, 0.5, 'one expert: no choice', ha='center', transform=axis.transAxes, fontsize=8)
            continue
        axis.imshow([tables[group][number] for number in numbers], cmap=COLORS, norm=Normalize(-limit, limit), aspect='auto',
                    interpolation='nearest')
        names = [f'{classes["names"][number]} ({classes["images"][number]})' for number in numbers]
        axis.set_yticks(range(len(numbers)), names if axis is grid[0] else [], fontsize=8)
        edges = np.cumsum([0, *(experts[center] for center in chosen)]) - 0.5
        for edge in edges[1:-1]:
            axis.axvline(edge, color='black', linewidth=0.8)
        if columns <= MOST_COLUMNS:
            labels = [f'{center}, {expert}' for center in chosen for expert in range(1, experts[center] + 1)]
            axis.set_xticks(range(columns), labels, fontsize=8, rotation=90)
        else:
            axis.set_xticks((edges[1:] + edges[:-1]) / 2, chosen, fontsize=8, rotation=90)
    _add_colorbar(figure, grid, limit).set_label('difference of usage relative to an equal share')
    left_out = len(strongest) - len(numbers)
    notes = [f'{left_out} classes with smaller differences left out'] * (left_out > 0)
    notes += [f'not shown, as in every image: {summarize_names(everywhere)}'] * bool(everywhere)
    figure.suptitle('\n'.join([title, *notes]), fontsize=12)
    write_figure(path, figure)


def find_most_dependent(result: Result, name: str | None = None) -> tuple[str, str]:
    """Find the (adapter, group) of the gates that depend most on the image, among those of one adapter or of all."""
    return max(((found['normalized']['dependence'] or 0., adapter['name'], group) for adapter in result['adapters']
                for group, found in adapter['groups'].items() if name in (None, adapter['name'])), key=lambda entry: entry[0])[1:]


def draw_top_images(result: Result, name: str, group: str, picture: Callable[[int], np.ndarray], path: Path) -> None:
    """Draw for each expert of one group of gates the images with its largest gates.

    Args:
        result: content of routing.json.
        name: of the adapter.
        group: of its gates.
        picture: gives an image (H, W, 3) uint8 by its number.
        path: PNG file to write.
    """
    found = next(adapter for adapter in result['adapters'] if adapter['name'] == name)['groups'][group]
    tops = found['top_images']
    if len(tops) == 1:
        _draw_sentence(f'{name}, {group}: images with the largest gate of each expert',
                       'Every router has one expert: there is no choice, and no image that chooses it more.', path)
        return
    columns = max(len(top) for top in tops)
    figure = Figure(figsize=(0.9 + 1.3 * columns, 0.6 + 1.7 * len(tops)), layout='constrained')
    grid = figure.subplots(len(tops), columns, squeeze=False)
    for line, (axes, top) in enumerate(zip(grid, tops)):
        for axis in axes:
            axis.set(xticks=[], yticks=[])
            axis.set_frame_on(False)
        for axis, (image, gate) in zip(axes, top):
            axis.imshow(picture(image), interpolation='nearest')
            file = result['image_paths'][str(image)]
            label = Path(file).stem if file else f'image {image}'
            axis.set_title(f'{gate:.3f}\n{label[-16:]}', fontsize=8)
        axes[0].set_ylabel(f'expert {line + 1}\nmean {found["mean_gate"][line]:.3f}', fontsize=10)
    figure.suptitle(f'{name}, {group}: images with the largest gate of each expert', fontsize=12)
    write_figure(path, figure)
