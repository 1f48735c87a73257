"""Groups runs that differ in nothing but the seed, names the groups, and says in which settings they differ."""
import json
import re
import statistics
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.runner import Runner

from mmparax.config.query import datasets_of
from mmparax.report.gather import Run
from mmparax.utils.signatures import keyword_names

# Where files are and how a run was started says nothing about what was trained.
PLACES = ('work_dir', 'resume', 'launcher', 'experiment_name', 'load_from', 'log_level', 'cfg')
OF_EVALUATION = ('output_dir', 'outfile_prefix', 'out_file_path')
SEED = 'randomness.seed'
LONGEST = 160  # characters of a value
FOLDERS = re.compile(r"(?<![\w.…/:])/(?:[^\s'\"/:;,()]+/)+")  # of absolute paths


@dataclass
class Group:
    """Runs of one config with several seeds, or a single run.

    Attributes:
        label: method, and what else is needed to tell the groups apart.
        runs: in the order of their seeds.
        number: tells its colour and line style, everywhere.
    """
    label: str
    runs: List[Run]
    number: int
    settings: Dict[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def metrics(self) -> Dict[str, List[float]]:
        """Metric -> the values of the runs that have it."""
        names = dict.fromkeys(name for run in self.runs for name in run.metrics)
        values = {name: [run.metrics[name] for run in self.runs if run.metrics.get(name) is not None] for name in names}
        return {name: found for name, found in values.items() if found}

    @property
    def seconds_per_iteration(self) -> List[float]:
        return [run.seconds_per_iteration for run in self.runs if run.seconds_per_iteration is not None]

    @property
    def comparable(self) -> str:
        """Groups with the same text were evaluated on the same data in the same way."""
        cfg = self.first.cfg
        parts = [*datasets_of(cfg.get('test_dataloader') or cfg.get('val_dataloader')), cfg.get('test_evaluator')]
        sources = sorted({run.source for run in self.runs})
        return json.dumps([_without(parts, (*OF_EVALUATION, 'pipeline', 'metainfo')), sources], sort_keys=True, default=str)


def _without(config: Any, names: Sequence[str]) -> Any:
    if isinstance(config, dict):
        return {name: _without(value, names) for name, value in config.items() if name not in names}
    if isinstance(config, (list, tuple)):
        return [_without(value, names) for value in config]
    return config


def settings_of(run: Run) -> Dict[str, Any]:
    """Dotted name -> value of the settings of a run's config that say what was trained."""
    cfg = run.cfg.to_dict()
    # Other names of a config's top level are only variables, which what is here has been made with.
    names = [name for name in (*keyword_names(Runner.__init__), 'data_preprocessor') if name not in PLACES]
    settings = {name: cfg[name] for name in names if name in cfg}
    return dict(_flat(_without(settings, OF_EVALUATION)))


def _flat(config: Any, path: str = '') -> Iterator[Tuple[str, Any]]:
    """(dotted name, value) of a nested config; a list of plain values is one value."""
    if isinstance(config, dict) and config:
        for name, value in config.items():
            yield from _flat(value, f'{path}.{name}' if path else str(name))
    elif isinstance(config, (list, tuple)) and any(isinstance(value, dict) for value in config):
        for number, value in enumerate(config):
            yield from _flat(value, f'{path}.{number}')
    else:
        yield path, list(config) if isinstance(config, tuple) else config


def group(runs: Sequence[Run]) -> List[Group]:
    """Group runs whose configs differ only in the seed; in the order in which they were given."""
    groups: Dict[str, Group] = {}
    for run in runs:
        settings = settings_of(run)
        key = json.dumps({name: value for name, value in settings.items() if name != SEED}, sort_keys=True, default=str)
        found = groups.setdefault(key, Group('', [], len(groups), settings))
        found.runs.append(run)
    found = list(groups.values())
    for entry in found:
        entry.runs.sort(key=lambda run: (run.seed is None, run.seed))
    for entry, label in zip(found, _labels(found)):
        entry.label = label
    return found


def _labels(groups: Sequence[Group]) -> List[str]:
    """The method of each group; where that is not enough, with backbone, config, and folder."""
    more: List[Callable[[Group], str]] = [lambda group: group.first.backbone, lambda group: _config_name(group.first),
                                          lambda group: group.first.name]
    labels = [group.first.method for group in groups]
    for part in more:
        named = list(zip(labels, map(part, groups)))
        ways = {label: len({other for same, other in named if same == label}) for label in labels}
        labels = [f'{label}, {other}' if ways[label] > 1 else label for label, other in named]
    return labels


def _config_name(run: Run) -> str:
    return next((path.stem for path in sorted(run.folder.glob('*.py'))), run.folder.name)


def run_label(group: Group, run: Run) -> str:
    """The name of one run of a group."""
    return group.label if len(group.runs) == 1 else f'{group.label}, seed {run.seed}'


def differences(groups: Sequence[Group]) -> Dict[str, List[str]]:
    """Setting -> its value in each group, of those settings that are not the same in all."""
    names = dict.fromkeys(name for group in groups for name in group.settings if name != SEED)
    differing = {}
    for name in names:
        values = [shown(group.settings[name]) if name in group.settings else 'not set' for group in groups]
        if len({repr(group.settings.get(name, ...)) for group in groups}) > 1:
            differing[name] = values
    return differing


def shown(value: Any) -> str:
    """A setting's value as text; of the path of a file only its name, for the place is that of one machine."""
    if isinstance(value, str):
        return without_place(value)
    if isinstance(value, (list, tuple)):
        text = '[' + ', '.join(map(shown, value)) + ']'
    else:
        text = repr(value)
    return text if len(text) <= LONGEST else f'{text[:LONGEST]}…'


def without_place(text: str) -> str:
    """An absolute path without the folders that are of this machine: relative to the present one, or its name alone."""
    path = PurePath(text)
    if not path.is_absolute():
        return text
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else f'…/{path.name}'


def without_places(sentence: str) -> str:
    """A sentence without the folders of the absolute paths in it."""
    return FOLDERS.sub('…/', sentence)


def best(groups: Sequence[Group], metric: str) -> Optional[Group]:
    """The group with the highest mean of a metric; None if it is alone with it, or they were not evaluated alike."""
    having = [group for group in groups if metric in group.metrics]
    if len(having) < 2 or len({group.comparable for group in having}) > 1:
        return None
    return max(having, key=lambda group: statistics.mean(group.metrics[metric]))
