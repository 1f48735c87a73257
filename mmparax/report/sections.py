"""The parts of the report that need nothing but the work dirs: overview, curves, parameters, speed, settings, origin."""
import platform
import shlex
import statistics
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any, Dict, List, Mapping, Optional, Sequence

import torch

from mmparax.backbones.parameters import LABELS, ParameterCount, count_parameters
from mmparax.config.query import model_without_base
from mmparax.inference.metrics import COLUMNS
from mmparax.report.content import NONE, Cell, Figure, Figures, Key, Missing, Notes, Section, Table, Text, series_keys
from mmparax.report.figures import average, curves_chart, describe_curves, parameters_chart, values_chart
from mmparax.report.gather import Run
from mmparax.report.groups import SEED, Group, best, differences, without_place, without_places
from mmparax.utils.meta_device import build_on_meta
from mmparax.utils.tables import mean_and_spread
from mmparax.version import __version__

IN_PERCENT = {column for column, _ in COLUMNS.values()}
Counts = Mapping[int, ParameterCount]


def digits_of(metric: str) -> int:
    """Decimals of a metric: the paper's have one."""
    return 1 if metric.partition(' ')[0] in IN_PERCENT else 3


def count_groups(groups: Sequence[Group]) -> Dict[int, ParameterCount]:
    """Count the parameters of each group's model; a group whose model is not mmparax's or cannot be built has no count."""
    counts: Dict[int, ParameterCount] = {}
    for group in groups:
        try:
            counts[group.number] = count_parameters(build_on_meta(model_without_base(group.first.cfg), group.first.cfg.get('default_scope', 'mmengine')))
        except Exception as error:  # whatever a toolbox says
            group.first.notes.append(f'Its parameters could not be counted ({type(error).__name__}: {error}).')
    return counts


# ---- overview ----


def overview(groups: Sequence[Group], counts: Counts) -> Section:
    """What was trained, with what result, and what is missing."""
    runs = [run for group in groups for run in group.runs]
    metrics = list(dict.fromkeys(name for group in groups for name in group.metrics))
    winners = {metric: best(groups, metric) for metric in metrics}
    section = Section('overview', 'Overview', [Text(sentence) for sentence in _summary(groups, counts, winners)])
    seeds = any(len(group.runs) > 1 for group in groups)
    having = dict(device=any(run.device for run in runs), memory=any(run.memory for run in runs))
    header = ['setting' if seeds else 'run', 'backbone', *(['seeds'] if seeds else []), *metrics, 'trained in the backbone',
              'share of the backbone', 'checkpoint, MB', 's / iteration', *(['GPU memory, GiB'] if having['memory'] else []),
              *(['device'] if having['device'] else [])]
    rows = []
    for group in groups:
        count = counts.get(group.number)
        sizes = [run.checkpoint.stat().st_size / 1e6 for run in group.runs if run.checkpoint]
        rows.append([
            Cell(group.label, number=group.number), group.first.backbone,
            *([', '.join(NONE if run.seed is None else str(run.seed) for run in group.runs)] if seeds else []),
            *(_metric(group.metrics.get(metric, []), metric, winners[metric] is group) for metric in metrics),
            f'{count.trainable_in_backbone:,}' if count else NONE, f'{count.share_of_backbone:.2%}' if count else NONE,
            f'{statistics.mean(sizes):.1f}' if sizes else NONE,
            f'{statistics.median(group.seconds_per_iteration):.3f}' if group.seconds_per_iteration else NONE,
            *([_of(max((run.memory or 0 for run in group.runs)) / 1024, 1)] if having['memory'] else []),
            *([_devices([group]) or NONE] if having['device'] else [])])
    spread = ' Results are mean ± sample standard deviation over seeds.' if seeds else ''
    marked = ' The best of each column is marked ★.' if any(winners.values()) else ''
    section.blocks.append(Table(f'What was trained and what came of it.{spread}{marked} Seconds per iteration are the median '
                                'of the log, data loading included.', header, rows))
    if metrics and any(value is None and sum(metric in group.metrics for group in groups) > 1
                       for metric, value in winners.items()):
        section.blocks.append(Text('No best value is marked where the settings were not evaluated on the same data in the '
                                   'same way.'))
    if seeds:
        section.blocks.append(Table('Every run.', ['run', 'seed', *metrics, 'result of', 'trained for', 's / iteration'], [
            [Cell(run.name, number=group.number), NONE if run.seed is None else str(run.seed),
             *(_metric([run.metrics[metric]] if run.metrics.get(metric) is not None else [], metric) for metric in metrics),
             run.source or NONE, _progress(run), _of(run.seconds_per_iteration, 3)]
            for group in groups for run in group.runs]))
    notes = [without_places(f'{run.name}: {note}') for run in runs for note in run.notes]
    if notes:
        section.blocks += [Text('What is missing or damaged:'), Notes(notes)]
    return section


def _metric(values: Sequence[float], metric: str, is_best: bool = False) -> Cell:
    return Cell(mean_and_spread(values, digits_of(metric)) if values else NONE, best=is_best)


def _of(value: Optional[float], digits: int) -> str:
    return NONE if value is None else f'{value:.{digits}f}'


def _progress(run: Run) -> str:
    progress = run.progress()
    total = f' of {progress["total"]}' if progress['total'] and progress['done'] != progress['total'] else ''
    return f'{progress["done"]}{total} {progress["unit"]}s'


def _summary(groups: Sequence[Group], counts: Counts, winners: Mapping[str, Optional[Group]]) -> List[str]:
    runs = sum(len(group.runs) for group in groups)
    sentences = [f'{runs} run{"s" * (runs > 1)} of {len(groups)} setting{"s" * (len(groups) > 1)}: '
                 + ', '.join(f'{group.label} ({len(group.runs)})' for group in groups) + '.'
                 ] if runs > 1 else []
    metric, winner = next(((metric, group) for metric, group in winners.items() if group), (None, None))
    if winner is None:
        return sentences
    values, count = winner.metrics[metric], counts.get(winner.number)
    sentence = f'The highest {"mean " * (len(values) > 1)}{metric} is that of {winner.label}: ' \
               f'{mean_and_spread(values, digits_of(metric))}'
    if count:
        sentence += f', with {count.share_of_backbone:.2%} of its backbone trained'
    others = [group for group in groups if group is not winner and metric in group.metrics]
    touching = [group.label for group in others if max(group.metrics[metric]) >= min(values)]
    if touching and len(values) > 1:
        sentence += f'; its seeds overlap with those of {", ".join(touching)}'
    return [*sentences, sentence + '.']


# ---- curves ----


def curves(groups: Sequence[Group]) -> Section:
    """Loss and metrics over the training."""
    section = Section('curves', 'Training curves')
    found = {group.number: [points for run in group.runs if len((points := run.curves.series('loss'))[0])] for group in groups}
    charts = _chart(groups, 'loss', found, 'iteration', 'loss', 'Loss in training, as it was logged.', 3)
    validated: Dict[Any, Dict[int, List[Any]]] = {}
    for group in groups:
        for run in group.runs:
            unit = 'epoch' if run.curves.by_epoch else 'iteration'
            for metric, points in run.curves.metrics().items():
                validated.setdefault((metric, unit), {}).setdefault(group.number, []).append(points)
    for place, ((metric, unit), points) in enumerate(validated.items()):
        percent = ', %' if digits_of(metric) == 1 else ''
        charts += _chart(groups, f'metric{place}', points, unit, metric + percent, f'{metric} of the validations during '
                         'training.', digits_of(metric))
    if charts:
        section.blocks.append(Figures(charts))
    if not any(found.values()):
        section.blocks.append(Missing('No losses were logged: mmengine writes vis_data/scalars.json if the config has '
                                      "visualizer=dict(vis_backends=[dict(type='LocalVisBackend')]), as the shipped ones do."))
    if not validated:
        section.blocks.append(Missing('No validation was logged during training; train_cfg.val_interval makes them, for '
                                      'example:', 'python tools/train.py CONFIG --cfg-options train_cfg.val_interval=100'))
    return section


def _chart(groups: Sequence[Group], name: str, points: Mapping[int, Sequence[Any]], x_label: str, y_label: str, caption: str,
           digits: int) -> List[Figure]:
    # Of seeds only those steps are averaged that all of them have.
    drawn = {number: curves for number, curves in points.items() if curves and len(average(curves)[0])}
    if not drawn:
        return []
    shown = [group for group in groups if group.number in drawn]
    ends = {number: [values[-1] for _, values in curves] for number, curves in drawn.items()}
    if any(len(curves) > 1 for curves in drawn.values()):
        caption += ' Thick: mean over seeds; band: ± one standard deviation; thin: each seed.'
    alt = describe_curves(f'{y_label} against {x_label}', shown, ends, digits)
    return [Figure(curves_chart(f'curve-{name}', drawn, x_label, y_label, alt), caption, series_keys(shown))]


# ---- parameters ----


def parameters(groups: Sequence[Group], counts: Counts) -> Section:
    """Parameters by what they are."""
    section = Section('parameters', 'Parameters')
    counted = [group for group in groups if group.number in counts]
    if not counted:
        section.blocks.append(Missing('There is no backbone of mmparax whose parameters could be told apart.'))
        return section
    roles = [role for role in LABELS if any(getattr(counts[group.number], role).parameters for group in counted)]
    alt = 'Stacked bars of parameters in millions. ' + ' '.join(
        f'{group.label}: {counts[group.number].trainable_in_backbone:,} of {counts[group.number].backbone:,} in the backbone '
        'trained.'
        for group in counted)
    section.blocks.append(Figures([Figure(
        parameters_chart('parameters', [(group.label, counts[group.number]) for group in counted], roles, alt),
        'Parameters of the whole model by what they are.',
        [Key(LABELS[role], list(LABELS).index(role), 'role') for role in roles])]))
    section.blocks.append(Table(
        'Parameters by what they are. What trains in the backbone is everything there but "backbone, frozen".',
        ['setting', *(LABELS[role] for role in roles), 'trained in the backbone', 'share', 'trained in the model', 'share'],
        [[Cell(group.label, number=group.number),
          *(f'{getattr(count, role).parameters:,}' for role in roles), f'{count.trainable_in_backbone:,}',
          f'{count.share_of_backbone:.2%}', f'{count.trainable:,}', f'{count.share_of_model:.2%}']
         for group in counted for count in [counts[group.number]]]))
    return section


# ---- speed ----


def log_speed(groups: Sequence[Group]) -> List[Any]:
    """Seconds per iteration by the logs."""
    timed = [group for group in groups if group.seconds_per_iteration]
    if not timed:
        return [Missing('No log has the time of an iteration.')]
    values = {group.number: group.seconds_per_iteration for group in timed}
    alt = 'Seconds per iteration: ' + '; '.join(f'{group.label} {statistics.median(values[group.number]):.3f}'
                                                for group in timed) + '.'
    devices = _devices(timed)
    caption = ('Seconds per training iteration by the logs, head and data loading included: a dot for each run, the median '
               'over its log; a line at the median of the runs.' + (f' On {devices}.' if devices else '')
               + ' What else the machine did is in it: compare methods by the benchmark.')
    return [Figures([Figure(values_chart('speed', timed, values, 'seconds per iteration', alt), caption)])]


def _devices(groups: Sequence[Group]) -> str:
    """What the runs of some groups were computed on."""
    return ', '.join(dict.fromkeys(run.device for group in groups for run in group.runs if run.device))


# ---- settings and origin ----


def settings(groups: Sequence[Group]) -> Section:
    """The settings of the configs that are not the same everywhere."""
    section = Section('settings', 'Settings that differ')
    found = differences(groups)
    if len(groups) == 1:
        section.blocks.append(Text('There is one setting' + (f'; its runs differ in {SEED} only.' if len(groups[0].runs) > 1
                                                             else ', so there is nothing to compare.')))
    else:
        section.blocks.append(Table(
            'The settings of the configs that are not the same in all of them; paths of outputs and seeds left out.',
            ['setting', *(group.label for group in groups)], [[name, *values] for name, values in found.items()], prose=True))
    return section


def provenance(groups: Sequence[Group], arguments: Sequence[str]) -> Section:
    """Where the numbers come from."""
    runs = [(group, run) for group in groups for run in group.runs]
    section = Section('provenance', 'Where this comes from')
    words = ['='.join(map(without_place, argument.split('=', 1))) for argument in arguments]
    command = shlex.join(['python', 'tools/analysis_tools/report.py', *words])
    section.blocks.append(Table('This report.', ['what', 'value'], [
        ['made on', datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC')], ['command', command],
        ['mmparax', __version__], ['torch', torch.__version__], ['Python', platform.python_version()],
        ['matplotlib', version('matplotlib')]], prose=True))
    section.blocks.append(Table(
        'The runs, by their logs.',
        ['run', 'trained on', 'started', 'torch', 'mmengine', 'mmparax', 'device', 'seed', 'config'],
        [[Cell(run.name, number=group.number), run.started or NONE,
          f'{len(run.sessions)} times' if len(run.sessions) > 1 else 'once' if run.sessions else NONE,
          run.environment.get('torch', NONE), run.environment.get('mmengine', NONE), str(run.result.get('version', NONE)),
          run.device or NONE, NONE if run.seed is None else str(run.seed),
          next((path.name for path in sorted(run.folder.glob('*.py'))), NONE)] for group, run in runs], prose=True))
    return section
