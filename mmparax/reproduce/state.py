"""What is on disk of a run: one folder for each scale, config and seed."""
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmparax.errors import MissingFileError
from mmparax.inference.metrics import select_paper_metrics
from mmparax.reproduce.process import parse_progress
from mmparax.utils.locks import LOCK, in_use
from mmparax.utils.storage import write
from mmparax.utils.tables import format_mean_and_spread

NOT_RUN, RUNNING, STOPPED, FAILED, DONE = 'not run', 'running', 'stopped', 'failed', 'done'
REMEDY = 'Make room, then call the same command again.'
TAIL = 200_000  # bytes at the end of a log in which the last progress is found


@dataclass(frozen=True)
class RunState:
    """Where a run stands; ``text`` is what a person reads, ``result`` the content of ``result.json`` of a run that is done."""
    kind: str
    text: str
    result: dict[str, Any] | None = None


class RunFolder:
    """The folder of one run.

    ``train/`` and ``test/`` are the work dirs of tools/train.py and tools/test.py, ``train.txt`` and ``test.txt`` their
    output; ``run.json`` records the settings of what is here, the versions of the code, how often it was started, the seconds
    of training that are known, whether the training ended well, and why it failed; ``result.json`` holds the result. All of it
    belongs to the process that holds the folder's lock.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self.train, self.test = path / 'train', path / 'test'
        self.train_log, self.test_log = path / 'train.txt', path / 'test.txt'

    def read(self, name: str) -> dict[str, Any]:
        """Content of a JSON file of the folder; empty if there is none."""
        try:
            return json.loads((self.path / name).read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return {}

    def update_record(self, **changes: Any) -> None:
        """Change ``run.json``."""
        write(self.path / 'run.json', json.dumps({**self.read('run.json'), **changes}, indent=1).encode(), REMEDY)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``."""
        write(self.path / 'result.json', json.dumps(result, indent=1).encode(), REMEDY)

    def is_used(self) -> bool:
        """Whether a process works here: this runner, another, or a training that one has left."""
        return in_use(self.path) or self.is_used_by_training()

    def is_used_by_training(self) -> bool:
        """Whether a training works here, of this runner or left by another."""
        return in_use(self.train)

    def read_checkpoint_step(self) -> tuple[str | None, int]:
        """('iter' or 'epoch', number) of the last checkpoint; (None, 0) if there is none."""
        try:
            last = (self.train / 'last_checkpoint').read_text(encoding='utf-8')
        except OSError:
            return None, 0
        found = re.search(r'(iter|epoch)_(\d+)\.pth$', last.strip())
        return (found.group(1), int(found.group(2))) if found else (None, 0)

    def find_best_checkpoint(self) -> Path | None:
        """The best checkpoint, if the recipe keeps one and it has been written."""
        return max(self.train.glob('best_*.pth'), key=os.path.getmtime, default=None)

    def read_metrics(self) -> dict[str, Any]:
        """What the last evaluation has measured.

        Raises:
            MissingFileError: if it has left nothing.
        """
        newest = max(self.test.glob('*/*.json'), key=os.path.getmtime, default=None)
        if newest is None:
            raise MissingFileError(f'{str(self.test)!r} holds no metrics although the evaluation ended well; {self.test_log} '
                                   'shows what it did.')
        return json.loads(newest.read_text(encoding='utf-8'))

    def read_progress(self, length: Mapping[str, int | None]) -> tuple[int, int | None]:
        """(iterations done, of how many) by the log of the training."""
        try:
            with open(self.train_log, 'rb') as file:
                file.seek(max(0, self.train_log.stat().st_size - TAIL))
                text = file.read().decode(errors='replace')
        except OSError:
            return 0, length['iterations']
        return parse_progress(text, 'train', length['epochs']) or (0, length['iterations'])

    def set_aside(self) -> Path | None:
        """Move what is here, of other settings, to a folder of its own inside; nothing is deleted."""
        paths = [path for path in self.path.iterdir() if path.name != LOCK and not path.name.startswith('earlier_')]
        if not paths:
            return None
        number = 1
        while (self.path / f'earlier_{number}').exists():
            number += 1
        target = self.path / f'earlier_{number}'
        target.mkdir()
        for path in paths:
            path.rename(target / path.name)
        return target

    def determine_state(self, settings: Mapping[str, Any], length: Mapping[str, int | None], code: str = '') -> RunState:
        """Where the run with these settings stands.

        Args:
            settings: all that its result depends on; what is here of other settings is not taken for it.
            length: iterations or epochs of the training.
            code: version of the present code; a result of another is taken, and says so.
        """
        record = self.read('run.json')
        if record.get('settings') != settings:
            return RunState(NOT_RUN, NOT_RUN + (' (another run, of other settings, is here)' if record else ''))
        result = self.read('result.json')
        if result.get('settings') == settings:
            other = ', by other code' if result.get('code') != code else ''
            return RunState(DONE, f'{DONE}: {format_first_metric(result["metrics"])}{other}', result)
        done, total = self.read_progress(length)
        if self.is_used():
            return RunState(
                RUNNING, f'{RUNNING} at iteration {_format_progress(done, total)}' +
                (', evaluating' if done == total and self.test_log.exists() else ''))
        kind, step = self.read_checkpoint_step()
        if kind == 'epoch' and total:
            step *= total // length['epochs']
        if record.get('failure'):
            return RunState(FAILED, f'{FAILED} at iteration {_format_progress(done, total)}: {record["failure"]}')
        return RunState(STOPPED, f'{STOPPED} at iteration {_format_progress(step, total)}')


def _format_progress(done: int, total: int | None) -> str:
    return f'{done} of {total}' if total else str(done)


def format_first_metric(metrics: Mapping[str, float | None]) -> str:
    """The first metric of a result in words."""
    return next((f'{name} {value:.1f}' for name, value in metrics.items() if value is not None), 'nothing could be measured')


def fill_columns(metrics: Mapping[str, Any], output: str, columns: tuple[str, ...]) -> dict[str, float | None]:
    """Put the metrics of an evaluation into a table's columns.

    Args:
        metrics: what the evaluation wrote.
        output: what it printed.
        columns: those of the table.

    Returns:
        Column -> percent. A detector that finds nothing has no AP in COCO's evaluation; it counts as 0. None is what could
        not be measured.
    """
    found = select_paper_metrics(metrics)
    empty = 'results of the whole dataset is empty' in output
    return {**found, **{column: 0. if empty else None for column in columns if column not in found}}


def summarize_states(states: Mapping[int, RunState]) -> str:
    """The states of an entry's seeds as one sentence."""
    done = [state.result for state in states.values() if state.kind == DONE]
    if len(done) == len(states):
        first = next(iter(done[0]['metrics']), None)
        values = [result['metrics'].get(first) for result in done]
        if len(done) == 1 or None in values:
            return next(iter(states.values())).text
        return f'{DONE}: {first} {format_mean_and_spread(values)} ({len(done)} seeds)'
    if len(states) == 1 or len({state.text for state in states.values()}) == 1:
        return next(iter(states.values())).text
    return '; '.join(f'seed {seed}: {state.text}' for seed, state in states.items())


def list_seeds(folder: Path) -> list[int]:
    """The seeds of which there is something in the folder of a config."""
    return sorted(int(path.name[4:]) for path in folder.glob('seed*') if path.name[4:].isdigit())
