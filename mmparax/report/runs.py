"""Reads runs from their work dirs."""
import json
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmparax.config.files import load_config
from mmparax.config.query import walk_configs
from mmparax.errors import InputError, MissingFileError, UserError
from mmparax.inference.evaluation import FILE, describe_data, find_first_difference, format_images, name_split
from mmparax.report.logs import (
    TrainingCurves,
    describe_device,
    read_curves,
    read_environment,
    read_printed_evaluation,
    select_columns,
)
from mmparax.utils.text import summarize_names

TIMESTAMP = re.compile(r'\d{8}_\d{6}')
ADAPTED = re.compile(r'mmparax\.(Adapted|AdaRoute)(\w+)')
FULL = 'full fine-tuning'
HINT = 'Give work dirs of tools/train.py.'


@dataclass
class TrainingRun:
    """One training and its results.

    Attributes:
        folder: the work dir of the training.
        outer: the folder that was given for it; its evaluation may be beside the training's folder.
        name: its path without the folders that all runs share.
        config_file: the config that it was trained with.
        cfg: the content of that file.
        curves: the log of the training.
        metrics: column -> result, in percent if the paper's tables have the column.
        source: where ``metrics`` come from: 'test', 'last validation' or ''.
        checkpoint: file of the last checkpoint, if it is there.
        environment: see :func:`read_environment`.
        sessions: timestamps of the training and of its resumptions.
        result: the content of ``result.json``, if tools/reproduce.py made the run.
        notes: sentences about what is missing or damaged.
        images: on what ``metrics`` were measured, such as '200 images of val'; empty if nothing says it.
    """
    folder: Path
    outer: Path
    name: str
    config_file: Path
    cfg: Config
    curves: TrainingCurves
    metrics: dict[str, float | None]
    source: str
    checkpoint: Path | None
    environment: dict[str, str]
    sessions: list[str]
    result: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    images: str = ''

    @cached_property
    def backbone_config(self) -> Mapping[str, Any]:
        """Config of the adapted backbone, else of the model's backbone, else empty."""
        model = self.cfg.get('model') or {}
        found = (part for _, part in walk_configs(model) if ADAPTED.match(str(part.get('type'))))
        return next(found, None) or model.get('backbone') or {}

    @property
    def method(self) -> str:
        """Name of the method."""
        match = ADAPTED.match(str(self.backbone_config.get('type')))
        if match is None or self.backbone_config.get('adapter', match.group(1)) is None:
            return FULL
        adapter = self.backbone_config.get('adapter')
        return str(adapter.get('type')).rpartition('.')[2] if adapter else 'AdaRoute'

    @property
    def backbone(self) -> str:
        """Family and size, such as 'Swin base'."""
        kind = str(self.backbone_config.get('type', 'no backbone'))
        match, arch = ADAPTED.match(kind), self.backbone_config.get('arch', '')
        if isinstance(arch, Mapping):
            width = arch.get('embed_dims', arch.get('channels', ''))
            depths = arch.get('depths', arch.get('num_layers', ''))
            arch = f'(width {_join_numbers(width)}, depth {_join_numbers(depths)})'
        return ' '.join(filter(None, (match.group(2) if match else kind, str(arch))))

    @property
    def seed(self) -> int | None:
        """Seed of the random numbers; None if neither the config nor the log says."""
        seed = (self.cfg.get('randomness') or {}).get('seed')
        return seed if seed is not None else int(self.environment['seed']) if 'seed' in self.environment else None

    @property
    def evaluated(self) -> str:
        """What the metrics are of, such as 'test, 200 images of val'."""
        return ', '.join(filter(None, (self.source, self.images)))

    @property
    def device(self) -> str:
        return describe_device(self.environment)

    @property
    def seconds_per_iteration(self) -> float | None:
        """Median over the log, on which a time when the machine was busy or asleep has no influence."""
        _, times = self.curves.get_series('time')
        return statistics.median(times) if times else None

    @property
    def memory(self) -> float | None:
        """Peak GPU memory in MiB, if it was logged."""
        return max(self.curves.get_series('memory')[1], default=None)

    @property
    def started(self) -> str:
        """Date on which the training started."""
        return datetime.strptime(self.sessions[0][:8], '%Y%m%d').date().isoformat() if self.sessions else ''

    def find_progress(self) -> dict[str, Any]:
        """Find ``unit`` (iteration or epoch), ``done`` and ``total`` (None if the config does not say)."""
        loop = self.cfg.get('train_cfg') or {}
        unit = 'epoch' if 'max_epochs' in loop or (self.curves.by_epoch and 'max_iters' not in loop) else 'iteration'
        saved = re.search(r'(iter|epoch)_(\d+)\.\w+$', self.checkpoint.name if self.checkpoint else '')
        done = int(saved.group(2)) if saved and saved.group(1) == unit[:len(saved.group(1))] else 0
        if unit == 'iteration' and self.curves.train:
            done = max(done, int(self.curves.train[-1]['step']))
        elif self.curves.train:
            done = max(done, int(self.curves.train[-1].get('epoch', 1)) - 1)
        return dict(unit=unit, done=done, total=loop.get('max_epochs' if unit == 'epoch' else 'max_iters'))


def _join_numbers(value: Any) -> str:
    """Format a number, or numbers with hyphens between them."""
    return '-'.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def gather_runs(folders: Sequence[str]) -> list[TrainingRun]:
    """Read the runs in some folders; one that is given twice is taken once.

    Args:
        folders: work dirs of tools/train.py, or folders with such a work dir in ``train/``, as tools/reproduce.py makes them.

    Raises:
        MissingFileError: if a folder does not exist.
        InputError: if it is a file, is empty or holds no run.
    """
    places = {Path(folder).resolve(): find_training_folder(folder) for folder in folders}
    by_training = {training.resolve(): outer for outer, training in places.items()}
    outers = [
        outer.parent if outer.name == 'train' and outer == training and _has_evaluation(outer.parent) else outer
        for training, outer in by_training.items()
    ]
    return [_read_run(training, outer, name) for training, outer, name in zip(by_training, outers, _make_names(outers))]


def _has_evaluation(folder: Path) -> bool:
    return any((folder / name).exists() for name in ('result.json', 'test.txt', 'test'))


def find_training_folder(given: str) -> Path:
    """Find the work dir of the training in a folder.

    Raises:
        UserError: as :func:`gather_runs`.
    """
    folder = Path(given)
    if not folder.exists():
        raise MissingFileError(f'the folder {given!r} does not exist. {HINT}')
    if not folder.is_dir():
        raise InputError(f'{given!r} is a file, not a folder. {HINT}')
    for place in (folder, folder / 'train'):
        if _find_configs(place):
            return place
    inside = sorted(child.name for child in folder.iterdir() if any(map(_find_configs, (child, child / 'train'))))
    if inside:
        raise InputError(f'the folder {given!r} is no run, but runs are in it, {summarize_names(inside)}: give '
                         f'{os.path.join(given, "*")}.')
    state = 'holds no run: no config of one is in it' if any(folder.iterdir()) else 'is empty'
    raise InputError(f'the folder {given!r} {state}. {HINT}')


def _find_sessions(folder: Path) -> list[Path]:
    """Find the folders that mmengine makes at each start in a work dir, in the order of time."""
    return sorted(child for child in folder.iterdir() if child.is_dir() and TIMESTAMP.fullmatch(child.name))


def _find_training_sessions(folder: Path) -> list[Path]:
    """Find those of the sessions in which a training logged."""
    return [session for session in _find_sessions(folder) if (session / 'vis_data' / 'scalars.json').is_file()]


def _find_configs(folder: Path) -> list[Path]:
    """Find copies of a run's config, that of the training first: an evaluation in the same work dir leaves one, too."""
    if not folder.is_dir():
        return []
    sessions, trained = _find_sessions(folder), _find_training_sessions(folder)
    copies = [session / 'vis_data' / 'config.py' for session in reversed(trained)]
    if not trained and not any(folder.glob('*.pth')) and not sessions:
        return []
    return [path for path in (*copies, *sorted(folder.glob('*.py'))) if path.is_file()]


def _make_names(paths: Sequence[Path]) -> list[str]:
    """Name paths by the parts in which they differ; a single path by its last part."""
    if len(paths) == 1:
        name, parent = paths[0].name, paths[0].parent.name
        return [f'{parent}/{name}' if re.fullmatch(r'seed\d+|train', name) else name]
    shared = os.path.commonpath(paths)
    return [os.path.relpath(path, shared) for path in paths]


def _read_run(folder: Path, outer: Path, name: str) -> TrainingRun:
    notes: list[str] = []
    config_file = _find_configs(folder)[0]
    cfg = load_config(str(config_file))
    logged = _find_training_sessions(folder)
    curves = read_curves([session / 'vis_data' / 'scalars.json' for session in logged])
    notes += curves.notes
    if not logged:
        notes.append('No scalars.json of a training is there, so there are no curves.')
    logs = [log for session in logged for log in session.glob('*.log')]
    environment = read_environment(logs[-1]) if logs else {}
    result = _read_json(outer / 'result.json')
    metrics, source, images, refused = _find_metrics(folder, outer, curves, result, cfg)
    notes += refused
    if not metrics:
        notes.append('It was not evaluated: run tools/test.py.')
    checkpoint = _find_checkpoint(folder)
    if checkpoint is None:
        notes.append('Its checkpoint is not there, so neither are pictures and analyses that need it.')
    run = TrainingRun(folder, outer, name, config_file, cfg, curves, metrics, source, checkpoint, environment,
                      [session.name for session in logged], result, notes, images)
    progress = run.find_progress()
    if progress['total'] and progress['done'] < progress['total']:
        notes.append(f'It is not finished: {progress["unit"]} {progress["done"]} of {progress["total"]}.')
    return run


def _read_json(path: Path) -> dict[str, Any]:
    """Read a file with a JSON object; empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _find_metrics(folder: Path, outer: Path, curves: TrainingCurves, result: Mapping[str, Any],
                  cfg: Config) -> tuple[dict[str, float | None], str, str, list[str]]:
    """Find the newest evaluation of the run's own test set, else the last validation.

    Returns:
        tuple: the metrics, which of the two they are of, on which images, and sentences about evaluations on other data.
    """
    expected, notes = describe_data(cfg), []
    for path in sorted((path for place in {folder, outer, outer / 'test'}
                        for path in place.glob('*/*.json') if path.stem == path.parent.name and TIMESTAMP.fullmatch(path.stem)),
                       key=lambda path: path.stem, reverse=True):
        columns, about = select_columns(_read_json(path)), _read_evaluation(path.parent)
        difference = find_first_difference(about['data'], expected, about.get('folder') or '') \
            if columns and about.get('data') else ''
        if difference:
            images = f' ({format_images(about)})' if 'images' in about else ''
            notes.append(f'The evaluation of {path.stem}{images} is not its result: it is on other data than its config names, '
                         f'{difference}.')
        elif columns:
            return columns, 'test', format_images(about) if 'images' in about else '', notes
    others = [result.get('metrics') or {}]
    if not notes:  # what was printed may be of those
        others += [read_printed_evaluation(place / 'test.txt') for place in (outer, folder) if (place / 'test.txt').is_file()]
    for found in others:
        columns = select_columns(found)
        if columns:
            return columns, 'test', name_split(cfg), notes
    if curves.val:
        return select_columns(curves.val[-1]), 'last validation', name_split(
            dict(test_dataloader=cfg.get('val_dataloader'))), notes
    return {}, '', '', notes


def _read_evaluation(session: Path) -> dict[str, Any]:
    """What tools/test.py wrote of an evaluation, else what the session's copy of the config says; empty if neither is there."""
    about = _read_json(session / FILE)
    config = session / 'vis_data' / 'config.py'
    if not about and config.is_file():
        try:
            about = dict(data=describe_data(load_config(str(config))))
        except UserError:
            return {}
    return about


def _find_checkpoint(folder: Path) -> Path | None:
    """Find the last checkpoint, as the work dir names it; the folder may have been moved since."""
    last = folder / 'last_checkpoint'
    name = Path(last.read_text(encoding='utf-8', errors='replace').strip()).name if last.is_file() else ''
    if name and (folder / name).is_file():
        return folder / name
    return max(folder.glob('*.pth'), key=os.path.getmtime, default=None)
