"""Runs table entries: trains and evaluates what is missing, resumes what stopped, skips what is done or runs elsewhere."""
import math
import os
import platform
import re
import shlex
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmparax import errors
from mmparax.config.shipped import find_root
from mmparax.errors import StorageError, UserError
from mmparax.reproduce.entries import TableEntry
from mmparax.reproduce.full import FullScale
from mmparax.reproduce.process import ScriptError, run_script
from mmparax.reproduce.settings import compute_code_version, format_options
from mmparax.reproduce.state import DONE, FAILED, RUNNING, RunFolder, RunState, fill_columns
from mmparax.reproduce.tiny import TinyScale
from mmparax.utils.locks import lock_folder, unlock_folder
from mmparax.version import __version__

Scale = FullScale | TinyScale
SKIPPED = 'skipped'


@dataclass(frozen=True)
class ScriptLauncher:
    """Starts the scripts of ``tools/``.

    Attributes:
        launcher: ``'none'`` for one process, ``'pytorch'`` or ``'slurm'``.
        gpus: of each run.
        partition: of the Slurm cluster; '' for its default.
    """
    launcher: str = 'none'
    gpus: int = 1
    partition: str = ''

    def build_command(self, script: str, name: str, arguments: Sequence[str], options: Sequence[str]) -> list[str]:
        """The words that start ``script`` ('train' or 'test') with its positional arguments and its options."""
        tools = find_root() / 'tools'
        if self.launcher == 'none':
            return [sys.executable, str(tools / f'{script}.py'), *arguments, *options]
        if self.launcher == 'pytorch':
            return [str(tools / f'dist_{script}.sh'), *arguments, str(self.gpus), *options]
        return [str(tools / f'slurm_{script}.sh'), self.partition, name, *arguments, *options]

    def build_environment(self, run: str) -> dict[str, str]:
        """What the scripts read from the environment; under Slurm each run has a port, as several may share a node."""
        if self.launcher == 'none':
            return {}
        python = dict(PYTHON=sys.executable)
        if self.launcher == 'pytorch':
            return python
        port = os.environ.get('PORT', str(20000 + zlib.crc32(run.encode()) % 10000))
        return {**python, 'GPUS': str(self.gpus), 'PORT': port}


@dataclass(frozen=True)
class TableRun:
    """A table entry with a seed, and the folder of its results."""
    entry: TableEntry
    seed: int
    folder: RunFolder

    def __str__(self) -> str:
        return f'{self.entry}, seed {self.seed}'


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run: ``kind`` is ``'done'``, ``'failed'`` or ``'skipped'``, ``text`` says it in words."""
    run: TableRun
    kind: str
    text: str


class TableRunner:
    """Runs table entries one after the other.

    Args:
        scale: gives configs and settings.
        work_dir: folder of all runs; one folder for each scale, config and seed.
        launcher: how to start training and evaluation.
        print_line: prints a line.
        rerun_outdated: run again what was done by other code than the present one.
    """

    def __init__(self, scale: Scale, work_dir: Path, launcher: ScriptLauncher = ScriptLauncher(),
                 print_line: Callable[[str], Any] = print, rerun_outdated: bool = False):
        self.scale, self.work_dir, self.launcher, self.print_line = scale, Path(work_dir), launcher, print_line
        self.rerun_outdated = rerun_outdated
        self.code = compute_code_version()

    def get_folder(self, entry: TableEntry, seed: int) -> RunFolder:
        return RunFolder(self.work_dir / self.scale.name / entry.name / f'seed{seed}')

    def read_state(self, entry: TableEntry, seed: int) -> RunState:
        """Where a run stands; its config is only read if there is something on disk."""
        folder = self.get_folder(entry, seed)
        settings = self.scale.collect_settings(entry, seed) if folder.read('run.json') else {}
        return folder.determine_state(settings, self.scale.get_length(entry) if settings else {}, self.code)

    def list_runs(self, entries: Sequence[TableEntry], seeds: Sequence[int]) -> list[TableRun]:
        """The runs behind some entries, each once: all entries with the first seed, then with the second, ..."""
        unique = {entry.name: entry for entry in reversed(entries)}
        ordered = [entry for entry in entries if unique[entry.name] is entry]
        return [TableRun(entry, seed, self.get_folder(entry, seed)) for seed in seeds for entry in ordered]

    def build_commands(self, run: TableRun) -> tuple[list[str], Callable[[str], list[str]]]:
        """(command that trains, function that gives the command to evaluate a checkpoint)."""
        entry, folder = run.entry, run.folder
        config = str(self.scale.locate_config(entry, run.seed, folder.path))
        changes = format_options(self.scale.build_options(entry, run.seed, self.launcher.gpus))
        changes = ['--cfg-options', *changes] if changes else []
        train = self.launcher.build_command(
            'train', entry.name, [config],
            ['--work-dir',
             str(folder.train), '--resume', *([] if self.scale.validates else ['--no-validate']), *changes])

        def build_test(checkpoint: str) -> list[str]:
            options = ['--work-dir', str(folder.test), *changes]
            return self.launcher.build_command('test', entry.name, [config, checkpoint], options)

        return train, build_test

    def print_commands(self, runs: Sequence[TableRun]) -> None:
        """Print the commands of what is not done."""
        for run in runs:
            state = self.read_state(run.entry, run.seed)
            self.print_line(f'# {run}: {state.text}')
            if state.kind == DONE:
                continue
            train, build_test = self.build_commands(run)
            length = self.scale.get_length(run.entry)
            last = f'epoch_{length["epochs"]}.pth' if length['epochs'] else f'iter_{length["iterations"]}.pth'
            place = run.folder.train / ('BEST' if self.scale.get_best_metric(run.entry) else last)
            for command in (train, build_test(str(place))):
                environment = self.launcher.build_environment(str(run.folder.path))
                words = shlex.join([*(f'{name}={value}' for name, value in environment.items()), *command])
                self.print_line(words.replace(str(place), f'{run.folder.train}/best_*.pth') if place.name == 'BEST' else words)

    def run_all(self, runs: Sequence[TableRun]) -> list[RunOutcome]:
        """Run what is missing; what fails does not stop the rest."""
        outcomes = []
        for number, run in enumerate(runs, 1):
            self.print_line(f'\nTable entry {number} of {len(runs)}: {run}')
            try:
                outcomes.append(self._run_one(run))
            except Exception as error:  # a folder that cannot be locked, a config that cannot be read, a full disk, ...
                reason = str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}'
                outcomes.append(RunOutcome(run, FAILED, f'{FAILED}: {reason}'))
            self.print_line(f'{run}: {outcomes[-1].text}')
        return outcomes

    def _run_one(self, run: TableRun) -> RunOutcome:
        folder = run.folder
        try:
            lock_folder(folder.path)
        except StorageError:
            if not folder.is_used():
                raise
            return RunOutcome(run, SKIPPED, f'{self._describe_other_process(run)}; going on with the others.')
        try:
            if folder.is_used_by_training():
                return RunOutcome(run, SKIPPED, f'{self._describe_other_process(run)}; going on with the others.')
            settings = self.scale.collect_settings(run.entry, run.seed)
            state = self.read_state(run.entry, run.seed)
            outdated = state.kind == DONE and state.result.get('code') != self.code
            if state.kind == DONE and not (outdated and self.rerun_outdated):
                return RunOutcome(run, DONE, f'{state.text} (before, kept)')
            if outdated or folder.read('run.json').get('settings') != settings:
                aside = folder.set_aside()
                if aside:
                    self.print_line(f'What was here is of other {"code" if outdated else "settings"} and is kept in {aside}.')
            try:
                result = self._train_and_evaluate(run, settings)
            except ScriptError as error:
                log = folder.test_log if folder.read('run.json').get('step') == 'evaluation' else folder.train_log
                reason = find_reason(error.output)
                folder.update_record(failure=reason)
                return RunOutcome(run, FAILED, f'{FAILED}: {reason} ({log})')
            return RunOutcome(run, DONE, self.read_state(run.entry, run.seed).text + f' after {result["seconds"]:.0f} s')
        finally:
            unlock_folder(folder.path)

    def _describe_other_process(self, run: TableRun) -> str:
        state = self.read_state(run.entry, run.seed)
        return f'another process has it ({state.text if state.kind == RUNNING else "of other settings"})'

    def _train_and_evaluate(self, run: TableRun, settings: dict[str, Any]) -> dict[str, Any]:
        entry, folder, scale = run.entry, run.folder, self.scale
        record = folder.read('run.json')
        starts, seconds = record.get('starts', 0) + 1, record.get('seconds_training', 0.)
        codes = list(dict.fromkeys([*record.get('codes', []), compute_code_version()]))
        folder.update_record(settings=settings, starts=starts, failure=None, step='training', codes=codes)
        scale.write_config(entry, run.seed, folder.path)
        train, build_test = self.build_commands(run)
        length = scale.get_length(entry)
        unit, last = ('epoch', length['epochs']) if length['epochs'] else ('iter', length['iterations'])
        if folder.read_checkpoint_step() != (unit, last):
            start = time.time()
            folder.update_record(training_ended=False)
            try:
                run_script(train, folder.train_log, f'{run}: training', 'train', length['iterations'] or 1, length['epochs'],
                           append=starts > 1, **self._get_process_options(run))
                folder.update_record(training_ended=True)
            finally:
                seconds += time.time() - start
                folder.update_record(seconds_training=round(seconds, 1))
        folder.update_record(step='evaluation')
        start = time.time()
        tested = [(checkpoint, *self._evaluate(run, build_test(str(checkpoint)), append=number > 0))
                  for number, checkpoint in enumerate(self._list_checkpoints(entry, folder, f'{unit}_{last}.pth'))]
        by = scale.get_best_metric(entry)
        compared = {path.name: metrics.get(by) for path, metrics, _ in tested} if len(tested) > 1 else {}
        # Of equal ones the first, as in the training.
        checkpoint, metrics, output = max(tested, key=lambda one: -math.inf if one[1].get(by) is None else one[1][by])
        result = dict(settings=settings, metrics=fill_columns(metrics, output, entry.metrics),
                      parameters=read_parameter_count(folder.train_log.read_text(encoding='utf-8')),
                      seconds_training=round(seconds,
                                             1), seconds=round(seconds + time.time() - start,
                                                               1), starts=starts, checkpoint=checkpoint.name, compared=compared,
                      version=__version__, machine=describe_machine(self.launcher.launcher), gpus=self.launcher.gpus,
                      code=codes[0] if len(codes) == 1 else 'several', finished=time.strftime('%Y-%m-%d %H:%M:%S'))
        folder.write_result(result)
        return result

    def _list_checkpoints(self, entry: TableEntry, folder: RunFolder, last: str) -> list[Path]:
        """The checkpoints of which the better one is the result: one, unless the training did not end well after the last.

        The last checkpoint is written before its validation, so a training that was killed then has not compared it.
        """
        best = folder.find_best_checkpoint() if self.scale.get_best_metric(entry) else None
        if best is None:
            return [folder.train / last]
        compared = folder.read('run.json').get('training_ended') or best.name.endswith(f'_{last}')
        return [best] if compared else [best, folder.train / last]

    def _get_process_options(self, run: TableRun) -> dict[str, Any]:
        """Arguments of :func:`run_script` that are the same for all scripts of a run."""
        environment = self.launcher.build_environment(str(run.folder.path))
        return dict(environment=environment, one_process=self.launcher.launcher == 'none')

    def _evaluate(self, run: TableRun, command: Sequence[str], append: bool) -> tuple[dict[str, Any], str]:
        """(metrics of an evaluation, its output)."""
        output = run_script(command, run.folder.test_log, f'{run}: evaluating', 'test', append=append,
                            **self._get_process_options(run))
        return run.folder.read_metrics(), output


def read_parameter_count(log: str) -> int | None:
    """Trainable parameters of the backbone, as the log of a training counts them."""
    found = re.findall(r'trainable in backbone\D+([\d,]+)', log)
    return int(found[-1].replace(',', '')) if found else None


def describe_machine(launcher: str) -> str:
    """What this machine computes on; under Slurm another one does."""
    if launcher == 'slurm':
        return 'Slurm'
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU ({platform.machine()})'


def find_reason(output: str) -> str:
    """The line of a failed script's output that names its error, rather one of mmparax; without any, the last line.

    A launcher reports the failure of its processes after their own errors; that report says nothing.
    """
    lines = [re.sub(r'^\[rank\d+\]: ', '', line.strip()) for line in output.splitlines() if line.strip()]
    named = [
        (match[1], line) for line in lines
        if (match := re.match(r'(?:\w+\.)*(\w*(?:Error|Exception))\b', line)) and not line.startswith('torch.distributed.elastic')
    ]
    own = [line for name, line in named if hasattr(errors, name)]
    return (own or [line for _, line in named] or lines or ['it printed nothing'])[-1]
