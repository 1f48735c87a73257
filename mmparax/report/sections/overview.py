"""The overview: methods, results, and what is missing."""
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mmparax.backbones.parameters import ParameterCount, count_parameters
from mmparax.config.query import make_model_without_base
from mmparax.inference.metrics import is_in_percent
from mmparax.report.content import NONE, NoteList, Paragraph, ReportSection, ReportTable, TableField
from mmparax.report.groups import RunGroup, find_best, shorten_paths
from mmparax.report.runs import TrainingRun
from mmparax.utils.meta_device import build_on_meta
from mmparax.utils.tables import format_mean_and_spread

Counts = Mapping[int, ParameterCount]


def choose_digits(metric: str) -> int:
    """Choose the number of decimals of a metric: those of the paper's tables have one."""
    return 1 if is_in_percent(metric.partition(' ')[0]) else 3


def list_devices(groups: Sequence[RunGroup]) -> str:
    """List the devices of the runs of some groups."""
    return ', '.join(dict.fromkeys(run.device for group in groups for run in group.runs if run.device))


def count_groups(groups: Sequence[RunGroup]) -> dict[int, ParameterCount]:
    """Count the parameters of each group's model; a group whose model is not mmparax's or cannot be built has no count."""
    counts: dict[int, ParameterCount] = {}
    for group in groups:
        cfg = group.first.cfg
        try:
            model = build_on_meta(make_model_without_base(cfg), cfg.get('default_scope', 'mmengine'))
            counts[group.number] = count_parameters(model)
        except Exception as error:  # a toolbox may raise anything
            group.first.notes.append(f'Its parameters could not be counted ({type(error).__name__}: {error}).')
    return counts


def build_overview(groups: Sequence[RunGroup], counts: Counts) -> ReportSection:
    """Build the section about what was trained, with what result, and what is missing."""
    runs = [run for group in groups for run in group.runs]
    metrics = list(dict.fromkeys(name for group in groups for name in group.metrics))
    winners = {metric: find_best(groups, metric) for metric in metrics}
    section = ReportSection('overview', 'Overview', [Paragraph(sentence) for sentence in _summarize(groups, counts, winners)])
    has_seeds = any(len(group.runs) > 1 for group in groups)
    section.blocks.append(_tabulate_groups(groups, counts, winners, has_seeds))
    if metrics and any(value is None and sum(metric in group.metrics for group in groups) > 1
                       for metric, value in winners.items()):
        section.blocks.append(
            Paragraph('No best value is marked where the settings were not evaluated on the same data in '
                      'the same way.'))
    if has_seeds:
        header = ['run', 'seed', *metrics, 'result of', 'trained for', 's / iteration']
        section.blocks.append(
            ReportTable('Every run.', header, [[
                TableField(run.name, number=group.number), NONE if run.seed is None else str(run.seed),
                *(_format_metric([run.metrics[metric]] if run.metrics.get(metric) is not None else [], metric)
                  for metric in metrics), run.evaluated or NONE,
                _format_progress(run),
                _format_number(run.seconds_per_iteration, 3)
            ] for group in groups for run in group.runs]))
    notes = [shorten_paths(f'{run.name}: {note}') for run in runs for note in run.notes]
    if notes:
        section.blocks += [Paragraph('Missing or damaged:'), NoteList(notes)]
    return section


def _tabulate_groups(groups: Sequence[RunGroup], counts: Counts, winners: Mapping[str, RunGroup | None],
                     has_seeds: bool) -> ReportTable:
    """Tabulate the groups; columns for seeds, memory and device are there only if they are known."""
    runs = [run for group in groups for run in group.runs]
    has_memory, has_device = any(run.memory for run in runs), any(run.device for run in runs)
    header = [
        'setting' if has_seeds else 'run', 'backbone', *(['seeds'] if has_seeds else []), *winners,
        *(['result of'] if winners else []), 'trainable in the backbone', 'share of the backbone', 'checkpoint, MB',
        's / iteration', *(['GPU memory, GiB'] if has_memory else []), *(['device'] if has_device else [])
    ]
    rows: list[Any] = []
    for group in groups:
        count = counts.get(group.number)
        sizes = [run.checkpoint.stat().st_size / 1e6 for run in group.runs if run.checkpoint]
        rows.append([
            TableField(group.label, number=group.number), group.first.backbone,
            *([', '.join(NONE if run.seed is None else str(run.seed) for run in group.runs)] if has_seeds else []),
            *(_format_metric(group.metrics.get(metric, []), metric, winner is group) for metric, winner in winners.items()),
            *(['; '.join(dict.fromkeys(run.evaluated for run in group.runs if run.evaluated)) or NONE] if winners else []),
            f'{count.trainable_in_backbone:,}' if count else NONE, f'{count.share_of_backbone:.2%}' if count else NONE,
            f'{statistics.mean(sizes):.1f}' if sizes else NONE,
            f'{statistics.median(group.seconds_per_iteration):.3f}' if group.seconds_per_iteration else NONE,
            *([_format_number(max(run.memory or 0 for run in group.runs) / 1024, 1)] if has_memory else []),
            *([list_devices([group]) or NONE] if has_device else [])
        ])
    spread = ' Results are mean ± sample standard deviation over seeds.' if has_seeds else ''
    marked = ' The best of each column is marked ★.' if any(winners.values()) else ''
    return ReportTable(
        f'Settings and results.{spread}{marked} Seconds per iteration are the median of the log, data loading '
        'included.', header, rows)


def _format_metric(values: Sequence[float], metric: str, is_best: bool = False) -> TableField:
    return TableField(format_mean_and_spread(values, choose_digits(metric)) if values else NONE, best=is_best)


def _format_number(value: float | None, digits: int) -> str:
    return NONE if value is None else f'{value:.{digits}f}'


def _format_progress(run: TrainingRun) -> str:
    progress = run.find_progress()
    total = f' of {progress["total"]}' if progress['total'] and progress['done'] != progress['total'] else ''
    return f'{progress["done"]}{total} {progress["unit"]}s'


def _summarize(groups: Sequence[RunGroup], counts: Counts, winners: Mapping[str, RunGroup | None]) -> list[str]:
    """Say in sentences how many runs there are, and which group is best."""
    runs = sum(len(group.runs) for group in groups)
    sentences = [
        f'{runs} run{"s" * (runs > 1)} of {len(groups)} setting{"s" * (len(groups) > 1)}: '
        + ', '.join(f'{group.label} ({len(group.runs)})' for group in groups) + '.'
    ] if runs > 1 else []
    metric, winner = next(((metric, group) for metric, group in winners.items() if group), (None, None))
    if winner is None:
        return sentences
    values, count = winner.metrics[metric], counts.get(winner.number)
    sentence = f'The highest {"mean " * (len(values) > 1)}{metric} is that of {winner.label}: ' \
               f'{format_mean_and_spread(values, choose_digits(metric))}'
    if count:
        sentence += f', with {count.share_of_backbone:.2%} of its backbone trainable'
    others = [group for group in groups if group is not winner and metric in group.metrics]
    overlapping = [group.label for group in others if max(group.metrics[metric]) >= min(values)]
    if overlapping and len(values) > 1:
        sentence += f'; its seeds overlap with those of {", ".join(overlapping)}'
    return [*sentences, sentence + '.']
