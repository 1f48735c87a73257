"""The sections about training: curves, parameters, and seconds per iteration by the logs."""
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mmparax.backbones.parameters import LABELS
from mmparax.report.charts import (
    average_curves,
    describe_curves,
    draw_curves_chart,
    draw_parameters_chart,
    draw_values_chart,
)
from mmparax.report.content import (
    Chart,
    ChartRow,
    LegendKey,
    MissingPart,
    ReportSection,
    ReportTable,
    TableField,
    make_series_keys,
)
from mmparax.report.groups import RunGroup
from mmparax.report.sections.overview import Counts, choose_digits, list_devices


def build_curves(groups: Sequence[RunGroup]) -> ReportSection:
    """Build the section with loss and metrics over the training."""
    section = ReportSection('curves', 'Training curves')
    losses = {
        group.number: [points for run in group.runs if len((points := run.curves.get_series('loss'))[0])] for group in groups
    }
    charts = _draw_curves(groups, 'loss', losses, 'iteration', 'loss', 'Loss in training, as it was logged.', 3)
    validations: dict[Any, dict[int, list[Any]]] = {}
    for group in groups:
        for run in group.runs:
            unit = 'epoch' if run.curves.by_epoch else 'iteration'
            for metric, series in run.curves.get_metrics().items():
                validations.setdefault((metric, unit), {}).setdefault(group.number, []).append(series)
    for place, ((metric, unit), of_groups) in enumerate(validations.items()):
        percent = ', %' if choose_digits(metric) == 1 else ''
        charts += _draw_curves(groups, f'metric{place}', of_groups, unit, metric + percent, f'{metric} of the validations during '
                               'training.', choose_digits(metric))
    if charts:
        section.blocks.append(ChartRow(charts))
    if not any(losses.values()):
        section.blocks.append(
            MissingPart('No losses were logged: mmengine writes vis_data/scalars.json if the config has '
                        "visualizer=dict(vis_backends=[dict(type='LocalVisBackend')]), as the shipped ones "
                        'do.'))
    if not validations:
        section.blocks.append(
            MissingPart(
                'No validation was logged during training; train_cfg.val_interval sets how often it '
                'runs, for example:', 'python tools/train.py CONFIG --cfg-options train_cfg.val_interval=100'))
    return section


def _draw_curves(groups: Sequence[RunGroup], name: str, points: Mapping[int, Sequence[Any]], x_label: str, y_label: str,
                 caption: str, digits: int) -> list[Chart]:
    """Draw one chart, or none if no group has a step that all its seeds have: only such steps are averaged."""
    drawn = {number: curves for number, curves in points.items() if curves and len(average_curves(curves)[0])}
    if not drawn:
        return []
    shown = [group for group in groups if group.number in drawn]
    ends = {number: [values[-1] for _, values in curves] for number, curves in drawn.items()}
    if any(len(curves) > 1 for curves in drawn.values()):
        caption += ' Thick: mean over seeds; band: ± one standard deviation; thin: each seed.'
    alt = describe_curves(f'{y_label} against {x_label}', shown, ends, digits)
    return [Chart(draw_curves_chart(f'curve-{name}', drawn, x_label, y_label, alt), caption, make_series_keys(shown))]


def build_parameters(groups: Sequence[RunGroup], counts: Counts) -> ReportSection:
    """Build the section with the parameters by their role."""
    section = ReportSection('parameters', 'Parameters')
    counted = [group for group in groups if group.number in counts]
    if not counted:
        section.blocks.append(MissingPart('There is no backbone of mmparax whose parameters could be told apart.'))
        return section
    roles = [role for role in LABELS if any(getattr(counts[group.number], role).parameters for group in counted)]
    alt = 'Stacked bars of parameters in millions. ' + ' '.join(
        f'{group.label}: {counts[group.number].trainable_in_backbone:,} of {counts[group.number].backbone:,} in the backbone '
        'trainable.' for group in counted)
    section.blocks.append(
        ChartRow([
            Chart(draw_parameters_chart('parameters', [(group.label, counts[group.number]) for group in counted], roles,
                                        alt), 'Parameters of the whole model by their role.',
                  [LegendKey(LABELS[role],
                             list(LABELS).index(role), 'role') for role in roles])
        ]))
    section.blocks.append(
        ReportTable('Parameters by their role. All of the backbone but "backbone, frozen" is trainable.', [
            'setting', *(LABELS[role] for role in roles), 'trainable in the backbone', 'share', 'trainable in the model', 'share'
        ], [[
            TableField(group.label, number=group.number), *(f'{getattr(count, role).parameters:,}'
                                                            for role in roles), f'{count.trainable_in_backbone:,}',
            f'{count.share_of_backbone:.2%}', f'{count.trainable:,}', f'{count.share_of_model:.2%}'
        ] for group in counted for count in [counts[group.number]]]))
    return section


def build_logged_speed(groups: Sequence[RunGroup]) -> list[Any]:
    """Build the blocks with the seconds per iteration by the logs."""
    timed = [group for group in groups if group.seconds_per_iteration]
    if not timed:
        return [MissingPart('No log has the time of an iteration.')]
    values = {group.number: group.seconds_per_iteration for group in timed}
    alt = 'Seconds per iteration: ' + '; '.join(f'{group.label} {statistics.median(values[group.number]):.3f}'
                                                for group in timed) + '.'
    devices = list_devices(timed)
    caption = ('Seconds per training iteration by the logs, head and data loading included: a dot for each run, the median '
               'over its log; a line at the median of the runs.' + (f' On {devices}.' if devices else '')
               + ' Other load of the machine is included, so compare methods by the benchmark.')
    return [ChartRow([Chart(draw_values_chart('speed', timed, values, 'seconds per iteration', alt), caption)])]
