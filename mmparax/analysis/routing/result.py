"""The numbers of a routing measurement, as plain data for JSON, CSV and a text table."""
import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from mmparax.analysis.routing.measure import RoutingMeasurement
from mmparax.checks.gates import (
    DEAD_SHARE,
    FIXED_VARIATION,
    Statistics,
    count_groups_with_choice,
    find_constant_gates,
    find_dead_everywhere,
    find_dead_experts,
    list_warnings,
)
from mmparax.utils.tables import render_table

ADAPTER_FIELDS = ('name', 'module', 'stage', 'block', 'site', 'center', 'num_experts', 'activation')


def build_result(run: RoutingMeasurement, classes: Sequence[str] = ()) -> dict[str, Any]:
    """Collect all numbers of a measurement; docs/analysis.md describes them.

    Args:
        run: a finished measurement.
        classes: classes for which the differences are given adapter by adapter, too.
    """
    statistics, tops = run.totals.gates.compute_statistics(), _list_top_images(run)
    adapters = [
        dict({name: getattr(adapter, name) for name in ADAPTER_FIELDS},
             groups={group: dict(found.as_dict(), top_images=top[group]) for group, found in groups.items()})
        for adapter, groups, top in zip(run.adapters, statistics, tops)
    ]
    shown = sorted({image for top in tops for experts in top.values() for entries in experts for image, _ in entries})
    result = dict(
        images=run.num_seen, images_in_data=len(run.dataset),
        thresholds=dict(dead_expert=f'usage below {DEAD_SHARE:g}/M and the largest gate of no image',
                        input_independent=f'variation below {FIXED_VARIATION:g}'), summary=_summarize(run, statistics),
        warnings=list_warnings(run.adapters,
                               statistics), adapters=adapters, image_paths={str(image): run.get_path(image) for image in shown})
    if run.totals.class_images.sum():
        differences = _compute_differences(run, statistics)
        result['classes'] = dict(
            names=run.classes, images=[int(count) for count in run.totals.class_images],
            centers=_average_by_center(run, differences), layers={
                name: {
                    adapter.name: {group: _to_list(rows[run.classes.index(name)]) for group, rows in values.items()}
                    for adapter, values in zip(run.adapters, differences)
                } for name in classes
            })
    return result


def _summarize(run: RoutingMeasurement, statistics: Statistics) -> dict[str, Any]:
    """Count, and average over the groups of gates that have a choice."""
    every = [found for groups in statistics for found in groups.values() if found.num_experts > 1]

    def mean(name: str) -> float | None:
        return float(np.mean([found.normalize(getattr(found, name)) for found in every])) if every else None

    return dict(adapters=len(run.adapters), groups=sum(map(len, statistics)),
                groups_with_a_choice=count_groups_with_choice(run.adapters), experts=sum(found.num_experts for found in every),
                dead_experts=len(find_dead_experts(run.adapters,
                                                   statistics)), dead_everywhere=find_dead_everywhere(run.adapters, statistics),
                input_independent=len(find_constant_gates(run.adapters, statistics)),
                normalized={name: mean(name) for name in ('entropy_of_mean', 'mean_entropy', 'dependence')},
                variation=float(np.mean([found.variation for found in every])) if every and run.num_seen > 1 else None)


def _list_top_images(run: RoutingMeasurement) -> list[dict[str, list[list[tuple[int, float]]]]]:
    """List for each adapter: group -> for each expert (number of the image, gate), the largest gate first."""
    found: list[dict[str, list[list[tuple[int, float]]]]] = [{} for _ in run.adapters]
    for shape, numbers in run.totals.gates.shapes.items():
        values, images = run.totals.best[shape].tolist(), run.totals.best_images[shape].tolist()
        for row, number in enumerate(numbers):
            for column, group in enumerate(run.adapters[number].groups):
                found[number][group] = [[(image, gate) for image, gate in zip(*expert) if image >= 0]
                                        for expert in zip(images[row][column], values[row][column])]
    return found


def _compute_differences(run: RoutingMeasurement, statistics: Statistics) -> list[dict[str, np.ndarray]]:
    """Compute for each adapter: group -> (classes, M), mean share in the images with a class minus that in all; nan if none."""
    found: list[dict[str, np.ndarray]] = [{} for _ in run.adapters]
    for shape, numbers in run.totals.gates.shapes.items():
        means = (run.totals.class_sums[shape] / run.totals.class_images[:, None, None, None]).numpy()
        for row, number in enumerate(numbers):
            for column, group in enumerate(run.adapters[number].groups):
                found[number][group] = means[:, row, column] - statistics[number][group].usage
    return found


def _average_by_center(run: RoutingMeasurement, differences: Sequence[Mapping[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    """Average the differences over the adapters that share a center: center -> group -> for each class, one for each expert."""
    found: dict[str, dict[str, Any]] = {}
    for center in dict.fromkeys(adapter.center for adapter in run.adapters):
        own = [values for adapter, values in zip(run.adapters, differences) if adapter.center == center]
        found[center] = {group: [_to_list(row) for row in np.mean([values[group] for values in own], 0)] for group in own[0]}
    return found


def _to_list(values: np.ndarray) -> list[float | None]:
    """For JSON, which has no nan."""
    return [None if math.isnan(value) else float(value) for value in values]


def format_top_images_csv(result: Mapping[str, Any]) -> str:
    """Format the images with the largest gates of each expert as CSV; experts and ranks count from 1, images from 0."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator='\n')
    writer.writerow(['adapter', 'group', 'expert', 'rank', 'image', 'gate', 'path'])
    for adapter in result['adapters']:
        for group, found in adapter['groups'].items():
            for expert, entries in enumerate(found['top_images'], 1):
                for rank, (image, gate) in enumerate(entries, 1):
                    writer.writerow(
                        [adapter['name'], group, expert, rank, image, f'{gate:.6g}', result['image_paths'][str(image)] or ''])
    return buffer.getvalue()


def format_routing_table(result: Mapping[str, Any]) -> str:
    """Format the means over the adapters of each center as a text table, one line for each group of gates."""
    table = Table(title=f'Routing over {result["images"]} images (entropies as shares of log M)')
    for column in ('experts of', 'gates', 'M', 'entropy of mean', 'mean entropy', 'dependence', 'variation', 'dead', 'fixed'):
        table.add_column(column, justify='left' if column in ('experts of', 'gates') else 'right', no_wrap=True)
    for center in dict.fromkeys(adapter['center'] for adapter in result['adapters']):
        own = [adapter for adapter in result['adapters'] if adapter['center'] == center]
        for group in own[0]['groups']:
            found = [adapter['groups'][group] for adapter in own]
            experts = own[0]['num_experts']
            if experts == 1:
                table.add_row(center, group, '1', *['no choice'] + [''] * 5)
                continue
            shares = [
                np.mean([each['normalized'][name] for each in found])
                for name in ('entropy_of_mean', 'mean_entropy', 'dependence')
            ]
            spreads = [each['variation'] for each in found if each['variation'] is not None]
            table.add_row(center, group, str(experts), f'{shares[0]:.4f}', f'{shares[1]:.4f}', f'{shares[2]:.2g}',
                          f'{np.mean(spreads):.3f}' if spreads else '–', str(sum(len(each['dead_experts']) for each in found)),
                          f'{sum(each["input_independent"] for each in found)} of {len(found)}')
        table.add_section()
    return render_table(table, 120)
