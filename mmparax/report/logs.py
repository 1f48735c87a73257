"""Reads what mmengine's loggers wrote into a work dir: curves, evaluations, and the machine."""
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmparax.inference.metrics import select_paper_metrics

Entry = dict[str, Any]
HEAD = 1 << 16  # bytes at the start of a log, in which mmengine describes the machine
TAIL = 200_000  # bytes at the end of a log, in which the last evaluation is
BESIDE_METRICS = ('step', 'iter', 'epoch', 'time', 'data_time', 'memory')
ENVIRONMENT = {
    'torch': re.compile(r'^\s+PyTorch: (\S+)', re.M),
    'mmengine': re.compile(r'^\s+MMEngine: (\S+)', re.M),
    'cuda': re.compile(r'^\s+CUDA available: (\S+)', re.M),
    'gpu': re.compile(r'^\s+GPU [\d,]+: (.+)$', re.M),
    'processes': re.compile(r'^\s+GPU number: (\d+)', re.M),
    'seed': re.compile(r'^\s+seed: (\d+)', re.M),
}
EVALUATION = re.compile(r'(?:Iter|Epoch)\(test\) +\[ *(\d+)/(\d+)\] +(\w.*)$', re.M)
NUMBER = re.compile(r'([\w./-]+): (-?[\d.]+(?:e[+-]?\d+)?|nan)\b')


@dataclass
class TrainingCurves:
    """The log of a training; its resumed parts are joined.

    Attributes:
        train: the entries of the training: ``step`` (iterations), ``loss``, ``time``, ...
        val: an entry for each validation: ``step`` and metrics.
        by_epoch: whether the ``step`` of ``val`` counts epochs instead of iterations.
        notes: sentences about what could not be read.
    """
    train: list[Entry] = field(default_factory=list)
    val: list[Entry] = field(default_factory=list)
    by_epoch: bool = False
    notes: list[str] = field(default_factory=list)

    def get_series(self, name: str) -> tuple[list[float], list[float]]:
        """Return (iterations, values) that the training logged under a name; values that are not finite are left out."""
        points = [(entry['step'], float(entry[name])) for entry in self.train if _is_number(entry.get(name))]
        return _unzip([point for point in points if math.isfinite(point[1])])

    def get_metrics(self) -> dict[str, tuple[list[float], list[float]]]:
        """Return metric -> (iterations or epochs, values) of the validations."""
        points: dict[str, list[tuple[float, float]]] = {}
        for entry in self.val:
            for name, value in select_columns(entry).items():
                if value is not None:
                    points.setdefault(name, []).append((entry['step'], value))
        return {name: _unzip(values) for name, values in points.items()}


def _unzip(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def select_columns(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Select the metrics of the paper's tables, in percent; if there are none, return all under their own names."""
    numbers = {name: value for name, value in _select_numbers(metrics).items() if name not in BESIDE_METRICS}
    return select_paper_metrics(numbers) or {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def read_curves(files: Sequence[Path]) -> TrainingCurves:
    """Read the ``scalars.json`` of a training and of what resumed it.

    A later part replaces what an earlier one logged from its first step on: there it resumed, or started anew.

    Args:
        files: in the order of time.
    """
    curves = TrainingCurves()
    for file in files:
        entries, note = _read_lines(file)
        if note:
            curves.notes.append(note)
        train = [entry for entry in entries if 'iter' in entry and ('loss' in entry or 'lr' in entry)]
        val = [
            entry for entry in entries
            if 'iter' not in entry and ('time' in entry or select_paper_metrics(_select_numbers(entry)))
        ]
        if train:
            first = train[0]
            curves.train = [entry for entry in curves.train if entry['step'] < first['step']]
            place = first.get('epoch', first['step'])
            curves.val = [entry for entry in curves.val if entry['step'] < place]
            curves.by_epoch = 'epoch' in first
        curves.train += train
        curves.val += val
    lost = sum(_is_number(entry.get('loss')) and not math.isfinite(entry['loss']) for entry in curves.train)
    if lost:
        curves.notes.append(f'The loss is not finite at {lost} of {len(curves.train)} logged steps.')
    return curves


def _select_numbers(entry: Mapping[str, Any]) -> Entry:
    return {name: value for name, value in entry.items() if _is_number(value)}


def _read_lines(file: Path) -> tuple[list[Entry], str]:
    """Read a file with a JSON object a line; return the entries, and a sentence on lines that cannot be read."""
    lines = file.read_text(encoding='utf-8', errors='replace').split('\n')
    entries, broken = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict) and _is_number(entry.get('step')):
            entries.append(entry)
        else:
            broken.append(number)
    if not broken:
        return entries, ''
    place = f'{file.parent.parent.name}/{file.parent.name}/{file.name}'
    if broken == [len(lines)]:
        return entries, f'The last line of {place} is half-written: the run was stopped or still runs; the rest was read.'
    return entries, f'{len(broken)} of {len(lines)} lines of {place} cannot be read, the first is line {broken[0]}.'


def read_environment(log: Path) -> dict[str, str]:
    """Read from a log torch, mmengine, cuda, gpu, processes and seed; what it does not say is left out."""
    with log.open('rb') as file:
        text = file.read(HEAD).decode(errors='replace')
    found = {name: pattern.search(text) for name, pattern in ENVIRONMENT.items()}
    return {name: match.group(1).strip() for name, match in found.items() if match}


def describe_device(environment: Mapping[str, str]) -> str:
    """Describe the device of a run in words; empty if its log does not say."""
    if 'cuda' not in environment:
        return ''
    count = int(environment.get('processes', 1))
    name = environment.get('gpu', 'GPU') if environment['cuda'] == 'True' else 'CPU'
    return name if count == 1 else f'{count} × {name}'


def read_printed_evaluation(log: Path) -> dict[str, float]:
    """Read the metrics of the last complete evaluation of a test set from a log; empty if there is none."""
    with log.open('rb') as file:
        file.seek(max(0, log.stat().st_size - TAIL))
        text = file.read().decode(errors='replace')
    ends = [line for done, total, line in EVALUATION.findall(text) if done == total]
    return {name: float(value) for name, value in NUMBER.findall(ends[-1])} if ends else {}
