"""Groups runs that differ only in the seed, names the groups, and finds the settings in which they differ."""
import json
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from mmengine.runner import Runner

from mmparax.config.query import find_datasets
from mmparax.report.runs import TrainingRun
from mmparax.utils.names import join_name
from mmparax.utils.signatures import list_keywords

# Places of files and the way in which a run was started: they do not change what is trained.
PLACES = ('work_dir', 'resume', 'launcher', 'experiment_name', 'load_from', 'log_level', 'cfg')
EVALUATION_OUTPUTS = ('output_dir', 'outfile_prefix', 'out_file_path')
SEED = 'randomness.seed'
LONGEST = 160  # characters of a value
FOLDERS = re.compile(r"(?<![\w.…/:])/(?:[^\s'\"/:;,()]+/)+")  # of absolute paths


@dataclass
class RunGroup:
    """Runs of one config with several seeds, or a single run.

    Attributes:
        label: method, and what else tells the groups apart.
        runs: in the order of their seeds.
        number: gives its colour and line style, everywhere.
        settings: dotted name -> value, see :func:`list_settings`.
    """
    label: str
    runs: list[TrainingRun]
    number: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> TrainingRun:
        return self.runs[0]

    @property
    def metrics(self) -> dict[str, list[float]]:
        """Metric -> the values of the runs that have it."""
        names = dict.fromkeys(name for run in self.runs for name in run.metrics)
        values = {name: [run.metrics[name] for run in self.runs if run.metrics.get(name) is not None] for name in names}
        return {name: found for name, found in values.items() if found}

    @property
    def seconds_per_iteration(self) -> list[float]:
        return [run.seconds_per_iteration for run in self.runs if run.seconds_per_iteration is not None]

    @property
    def evaluation_key(self) -> str:
        """The same text for groups that were evaluated on the same data in the same way."""
        cfg = self.first.cfg
        parts = [*find_datasets(cfg.get('test_dataloader') or cfg.get('val_dataloader')), cfg.get('test_evaluator')]
        sources = sorted({f'{run.source} {run.images}' for run in self.runs})
        return json.dumps([_drop(parts, (*EVALUATION_OUTPUTS, 'pipeline', 'metainfo')), sources], sort_keys=True, default=str)


def _drop(config: Any, names: Sequence[str]) -> Any:
    """Copy a nested config without the entries of some names."""
    if isinstance(config, dict):
        return {name: _drop(value, names) for name, value in config.items() if name not in names}
    if isinstance(config, (list, tuple)):
        return [_drop(value, names) for value in config]
    return config


def list_settings(run: TrainingRun) -> dict[str, Any]:
    """List the settings of a run's config that change what is trained: dotted name -> value."""
    cfg = run.cfg.to_dict()
    # Other names at the top level of a config are only variables.
    names = [name for name in (*list_keywords(Runner), 'data_preprocessor') if name not in PLACES]
    settings = {name: cfg[name] for name in names if name in cfg}
    return dict(_flatten(_drop(settings, EVALUATION_OUTPUTS)))


def _flatten(config: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of a nested config; a list of plain values is one value."""
    if isinstance(config, dict) and config:
        for name, value in config.items():
            yield from _flatten(value, join_name(path, str(name)))
    elif isinstance(config, (list, tuple)) and any(isinstance(value, dict) for value in config):
        for number, value in enumerate(config):
            yield from _flatten(value, f'{path}.{number}')
    else:
        yield path, list(config) if isinstance(config, tuple) else config


def group_runs(runs: Sequence[TrainingRun]) -> list[RunGroup]:
    """Group runs whose configs differ only in the seed, in the order of the runs."""
    by_settings: dict[str, RunGroup] = {}
    for run in runs:
        settings = list_settings(run)
        key = json.dumps({name: value for name, value in settings.items() if name != SEED}, sort_keys=True, default=str)
        by_settings.setdefault(key, RunGroup('', [], len(by_settings), settings)).runs.append(run)
    groups = list(by_settings.values())
    for group in groups:
        group.runs.sort(key=lambda run: (run.seed is None, run.seed))
    for group, label in zip(groups, _make_labels(groups)):
        group.label = label
    return groups


def _make_labels(groups: Sequence[RunGroup]) -> list[str]:
    """Label each group by its method; if that is not enough, also by backbone, config, and folder."""
    more: list[Callable[[RunGroup], str]] = [
        lambda group: group.first.backbone, lambda group: _find_config_name(group.first), lambda group: group.first.name
    ]
    labels = [group.first.method for group in groups]
    for part in more:
        named = list(zip(labels, map(part, groups)))
        ways = {label: len({other for same, other in named if same == label}) for label in labels}
        labels = [f'{label}, {other}' if ways[label] > 1 else label for label, other in named]
    return labels


def _find_config_name(run: TrainingRun) -> str:
    return next((path.stem for path in sorted(run.folder.glob('*.py'))), run.folder.name)


def label_run(group: RunGroup, run: TrainingRun) -> str:
    """Label one run of a group."""
    return group.label if len(group.runs) == 1 else f'{group.label}, seed {run.seed}'


def find_differences(groups: Sequence[RunGroup]) -> dict[str, list[str]]:
    """Find the settings that are not the same in all groups: setting -> its value in each group."""
    names = dict.fromkeys(name for group in groups for name in group.settings if name != SEED)
    differing = {}
    for name in names:
        values = [_format_setting(group.settings[name]) if name in group.settings else 'not set' for group in groups]
        if len({repr(group.settings.get(name, ...)) for group in groups}) > 1:
            differing[name] = values
    return differing


def _format_setting(value: Any) -> str:
    """Format the value of a setting; a path without the folders of this machine."""
    if isinstance(value, str):
        return shorten_path(value)
    if isinstance(value, (list, tuple)):
        text = '[' + ', '.join(map(_format_setting, value)) + ']'
    else:
        text = repr(value)
    return text if len(text) <= LONGEST else f'{text[:LONGEST]}…'


def shorten_path(text: str) -> str:
    """Shorten an absolute path, without the folders of this machine: relative to the present folder, or its name alone."""
    path = PurePath(text)
    if not path.is_absolute():
        return text
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else f'…/{path.name}'


def shorten_paths(sentence: str) -> str:
    """Remove the folders of absolute paths from a sentence."""
    return FOLDERS.sub('…/', sentence)


def find_best(groups: Sequence[RunGroup], metric: str) -> RunGroup | None:
    """Find the group with the highest mean of a metric; None if only one has it, or they were not evaluated alike."""
    candidates = [group for group in groups if metric in group.metrics]
    if len(candidates) < 2 or len({group.evaluation_key for group in candidates}) > 1:
        return None
    return max(candidates, key=lambda group: statistics.mean(group.metrics[metric]))
