"""The section about routing: which experts the routers of AdaRoute choose."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import Normalize, TwoSlopeNorm

from mmparax.analysis.routing.pictures import SITES, find_most_dependent
from mmparax.report.analyses import ADAROUTE, AnalysisResults
from mmparax.report.charts import draw_color_bar, draw_matrix_chart
from mmparax.report.content import (
    Chart,
    ChartRow,
    NoteList,
    Paragraph,
    ReportSection,
    ReportTable,
    Subheading,
    TableField,
)
from mmparax.report.groups import RunGroup, label_run
from mmparax.report.sections.common import collect_results, describe_seeds, format_mean, list_missing, to_array
from mmparax.utils.tables import format_mean_and_spread

DIFFERENCE_COLORS = 'RdBu_r'
MOST_CLASSES = 30
# Column -> its text for the summaries of the runs of a group.
COLUMNS: dict[str, Callable[[list[Mapping[str, Any]]], str]] = {
    'dead experts': lambda summaries: _format_part(summaries, 'dead_experts', 'experts'),
    'gates that ignore the image': lambda summaries: _format_part(summaries, 'input_independent', 'groups_with_a_choice'),
    'entropy of mean usage': lambda summaries: _format_normalized(summaries, 'entropy_of_mean'),
    'mean entropy': lambda summaries: _format_normalized(summaries, 'mean_entropy'),
    'told by the image': lambda summaries: _format_normalized(summaries, 'dependence', 4),
    'variation': lambda summaries: format_mean([summary['variation'] for summary in summaries]),
}


def build_routing(groups: Sequence[RunGroup], found: AnalysisResults) -> ReportSection:
    """Build the section about the experts that the routers choose."""
    section, results = ReportSection('routing', 'Routing'), collect_results('routing', found, groups)
    routed = [group for group in groups if group.first.method == ADAROUTE]
    if not routed:
        section.blocks.append(Paragraph('None of the runs has routers: this is about AdaRoute.'))
        return section
    shown = [group for group in routed if group.number in results]
    if shown:
        section.blocks.append(
            ReportTable(
                f'The gates over {results[shown[0].number][0]["images"]} images. Entropies are shares of log M: 1 for the mean '
                'usage means all experts are used alike, 0 for the mean entropy that each image takes one expert; their '
                'difference is what the choice tells of the image. Variation: spread of the gates over the images relative to '
                'their mean.' + describe_seeds(results), ['setting', *COLUMNS], [[
                    TableField(group.label, number=group.number),
                    *(format_column([result['summary'] for result in results[group.number]])
                      for format_column in COLUMNS.values())
                ] for group in shown]))
        for group in shown:
            section.blocks += _show_choices(group, results[group.number][0], found, len(shown) > 1)
    section.blocks += list_missing('routing', 'Routing', found, groups)
    return section


def _format_part(summaries: Sequence[Mapping[str, Any]], name: str, whole: str) -> str:
    values = [summary[name] for summary in summaries]
    return f'{format_mean_and_spread(values) if len(set(values)) > 1 else values[0]} of {summaries[0][whole]}'


def _format_normalized(summaries: Sequence[Mapping[str, Any]], name: str, digits: int = 3) -> str:
    return format_mean([summary['normalized'][name] for summary in summaries], digits)


def _show_choices(group: RunGroup, result: Mapping[str, Any], found: AnalysisResults, is_one_of_many: bool) -> list[Any]:
    """Show the usage of the experts, layer by layer and by class, for one run of a group."""
    run = next(run for run in group.runs if run.name in found.results['routing'])
    name = label_run(group, run)
    blocks: list[Any] = [Subheading(name)] if is_one_of_many or len(group.runs) > 1 else []
    if result['warnings']:
        blocks.append(NoteList(result['warnings']))
    adapters = [adapter for adapter in result['adapters'] if adapter['num_experts'] > 1]
    if not adapters:
        return [*blocks, Paragraph('Every router has a single expert: there is no choice.')]
    blocks.append(ChartRow(_draw_usage(group, adapters, name)))
    if result.get('classes'):
        if any(0 < count < result['images'] for count in result['classes']['images']):
            blocks.append(ChartRow(_draw_classes(group, result, name)))
        else:
            blocks.append(
                Paragraph(f'Every class that occurs is in every one of the {result["images"]} images, so no class has '
                          'images without it to compare with.'))
    return blocks


def _draw_usage(group: RunGroup, adapters: Sequence[Mapping[str, Any]], name: str) -> list[Chart]:
    """Draw the mean usage of the experts layer by layer, a chart for each kind of gates, and their colour scale."""
    layers = [f'{adapter["stage"]}.{adapter["block"]} {SITES.get(adapter["site"], adapter["site"])}' for adapter in adapters]
    kinds = list(dict.fromkeys(kind for adapter in adapters for kind in adapter['groups']))
    usage = {kind: to_array([_compute_relative_usage(adapter, kind) for adapter in adapters]) for kind in kinds}
    norm = TwoSlopeNorm(1., 0., max(2., *(float(np.nanmax(values)) for values in usage.values())))
    experts = [str(number + 1) for number in range(max(adapter['num_experts'] for adapter in adapters))]
    charts = [
        Chart(
            draw_matrix_chart(
                f'usage-{group.number}-{number}', values, layers, experts[:values.shape[1]], norm, DIFFERENCE_COLORS, 'expert',
                '', f'{kind}: mean usage of each expert in each layer of '
                f'{name}, between {np.nanmin(values):.2f} and {np.nanmax(values):.2f} of an equal share.'),
            f'Gates of {kind}: mean usage of the experts, layer by layer.') for number, (kind, values) in enumerate(usage.items())
    ]
    charts.append(
        Chart(draw_color_bar(f'usage-scale-{group.number}', norm, DIFFERENCE_COLORS, 'usage · M'),
              'Colours of usage: 1 is an equal share.'))
    return charts


def _compute_relative_usage(adapter: Mapping[str, Any], kind: str) -> list[float | None]:
    """Compute the mean share of each expert in the gates of one kind, relative to an equal share."""
    shares = adapter['groups'].get(kind, {}).get('usage', [])
    return [share * adapter['num_experts'] for share in shares] or [None]


def _draw_classes(group: RunGroup, result: Mapping[str, Any], name: str) -> list[Chart]:
    """Draw how the usage in the images with a class differs, for the gates that depend most on the image."""
    kind, classes = find_most_dependent(result)[1], result['classes']
    experts = {adapter['center']: adapter['num_experts'] for adapter in result['adapters']}
    centers = [center for center in classes['centers'] if experts[center] > 1 and kind in classes['centers'][center]]
    present = [number for number, count in enumerate(classes['images']) if 0 < count < result['images']]
    values = to_array([[
        None if value is None else value * experts[center] for center in centers
        for value in classes['centers'][center][kind][number]
    ] for number in present])
    strongest = sorted(np.argsort(-np.nanmax(np.abs(values), 1))[:MOST_CLASSES].tolist())
    columns = [f'{center} {number + 1}' for center in centers for number in range(experts[center])]
    limit = max(float(np.nanmax(np.abs(values))), 1e-3)
    labels = [f'{classes["names"][present[place]]} ({classes["images"][present[place]]})' for place in strongest]
    left_out = len(present) - len(strongest)
    note = f' {left_out} classes with smaller differences are left out.' if left_out else ''
    everywhere = sum(count == result['images'] for count in classes['images'])
    note += f' {everywhere} classes that are in every image are not shown.' if everywhere else ''
    return [
        Chart(
            draw_matrix_chart(
                f'classes-{group.number}', values[strongest], labels, columns, Normalize(-limit, limit), DIFFERENCE_COLORS,
                'expert', '', f'How the usage of the experts of {name} differs in the '
                f'images with each class, at most {limit:.3f} of an equal share.'),
            f'Gates of {kind}, which depend most on the image: usage in the images with a class (their number) minus that in '
            f'all, mean over the layers.{note}'),
        Chart(
            draw_color_bar(f'classes-scale-{group.number}', Normalize(-limit, limit), DIFFERENCE_COLORS,
                           'difference of usage · M'), 'Colours of the differences.')
    ]
