"""Runs cells: trains and evaluates what is missing, resumes what stopped, skips what is done or runs elsewhere."""
import math
import os
import platform
import re
import shlex
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch

from mmparax import errors
from mmparax.config.shipped import find_root
from mmparax.errors import StorageError, UserError
from mmparax.reproduce.entries import Cell
from mmparax.reproduce.full import FullScale
from mmparax.reproduce.process import StepFailed, run_script
from mmparax.reproduce.settings import as_arguments, code_version
from mmparax.reproduce.state import DONE, FAILED, RUNNING, RunFolder, State, measured
from mmparax.reproduce.tiny import TinyScale
from mmparax.utils.locks import lock_folder, unlock_folder
from mmparax.version import __version__

Scale = Union[FullScale, TinyScale]
SKIPPED = 'skipped'


@dataclass(frozen=True)
class Launch:
    """How the scripts of ``tools/`` are started: ``launcher`` is 'none', 'pytorch' or 'slurm'."""
    launcher: str = 'none'
    gpus: int = 1
    partition: str = ''

    def command(self, script: str, name: str, arguments: Sequence[str], options: Sequence[str]) -> List[str]:
        """The words that start ``script`` ('train' or 'test') with its positional arguments and its options."""
        tools = find_root() / 'tools'
        if self.launcher == 'none':
            return [sys.executable, str(tools / f'{script}.py'), *arguments, *options]
        if self.launcher == 'pytorch':
            return [str(tools / f'dist_{script}.sh'), *arguments, str(self.gpus), *options]
        return [str(tools / f'slurm_{script}.sh'), self.partition, name, *arguments, *options]

    def environment(self, run: str) -> Dict[str, str]:
        """What the scripts read from the environment; under Slurm each run has a port, as several may share a node."""
        if self.launcher == 'none':
            return {}
        python = dict(PYTHON=sys.executable)
        if self.launcher == 'pytorch':
            return python
        port = os.environ.get('PORT', str(20000 + zlib.crc32(run.encode()) % 10000))
        return {**python, 'GPUS': str(self.gpus), 'PORT': port}


@dataclass(frozen=True)
class Run:
    """A cell with a seed, and where it goes."""
    cell: Cell
    seed: int
    folder: RunFolder

    def __str__(self) -> str:
        return f'{self.cell}, seed {self.seed}'


@dataclass(frozen=True)
class Outcome:
    """What became of a run: ``kind`` is 'done', 'failed' or 'skipped'."""
    run: Run
    kind: str
    text: str


class Runner:
    """Runs cells one after the other.

    Args:
        scale: gives configs and settings.
        work_dir: folder of all runs; one folder for each scale, config and seed.
        launch: how to start training and evaluation.
        say: prints a line.
        rerun_outdated: run again what was done by other code than the present one.
    """

    def __init__(self, scale: Scale, work_dir: Path, launch: Launch = Launch(), say: Callable[[str], Any] = print,
                 rerun_outdated: bool = False):
        self.scale, self.work_dir, self.launch, self.say = scale, Path(work_dir), launch, say
        self.rerun_outdated = rerun_outdated
        self.code = code_version()

    def folder(self, cell: Cell, seed: int) -> RunFolder:
        return RunFolder(self.work_dir / self.scale.name / cell.name / f'seed{seed}')

    def state(self, cell: Cell, seed: int) -> State:
        """Where a run stands; its config is only read if there is something on disk."""
        folder = self.folder(cell, seed)
        settings = self.scale.settings(cell, seed) if folder.read('run.json') else {}
        return folder.state(settings, self.scale.length(cell) if settings else {}, self.code)

    def runs(self, cells: Sequence[Cell], seeds: Sequence[int]) -> List[Run]:
        """The runs behind some cells, each once: all cells with the first seed, then with the second, ..."""
        unique = {cell.name: cell for cell in reversed(cells)}
        ordered = [cell for cell in cells if unique[cell.name] is cell]
        return [Run(cell, seed, self.folder(cell, seed)) for seed in seeds for cell in ordered]

    def commands(self, run: Run) -> Tuple[List[str], Callable[[str], List[str]]]:
        """(what trains, what evaluates a checkpoint)."""
        cell, folder = run.cell, run.folder
        config = str(self.scale.config_file(cell, run.seed, folder.path))
        changes = as_arguments(self.scale.options(cell, run.seed, self.launch.gpus))
        changes = ['--cfg-options', *changes] if changes else []
        train = self.launch.command('train', cell.name, [config], [
            '--work-dir', str(folder.train), '--resume', *([] if self.scale.validates else ['--no-validate']), *changes])

        def test(checkpoint: str) -> List[str]:
            return self.launch.command('test', cell.name, [config, checkpoint], ['--work-dir', str(folder.test), *changes])

        return train, test

    def dry_run(self, runs: Sequence[Run]) -> None:
        """Print the commands of what is not done."""
        for run in runs:
            state = self.state(run.cell, run.seed)
            self.say(f'# {run}: {state.text}')
            if state.kind == DONE:
                continue
            train, test = self.commands(run)
            length = self.scale.length(run.cell)
            last = f'epoch_{length["epochs"]}.pth' if length['epochs'] else f'iter_{length["iterations"]}.pth'
            place = run.folder.train / ('BEST' if self.scale.best_by(run.cell) else last)
            for command in (train, test(str(place))):
                environment = self.launch.environment(str(run.folder.path))
                words = shlex.join([*(f'{name}={value}' for name, value in environment.items()), *command])
                self.say(words.replace(str(place), f'{run.folder.train}/best_*.pth') if place.name == 'BEST' else words)

    def run(self, runs: Sequence[Run]) -> List[Outcome]:
        """Run what is missing; what fails does not stop the rest."""
        outcomes = []
        for number, run in enumerate(runs, 1):
            self.say(f'\nCell {number} of {len(runs)}: {run}')
            try:
                outcomes.append(self._one(run))
            except Exception as error:  # a folder that cannot be locked, a config that cannot be read, a full disk, ...
                reason = str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}'
                outcomes.append(Outcome(run, FAILED, f'{FAILED}: {reason}'))
            self.say(f'{run}: {outcomes[-1].text}')
        return outcomes

    def _one(self, run: Run) -> Outcome:
        folder = run.folder
        try:
            lock_folder(folder.path)
        except StorageError:
            if not folder.used():
                raise
            return Outcome(run, SKIPPED, f'{self._elsewhere(run)}; going on with the others.')
        try:
            if folder.used_by_training():
                return Outcome(run, SKIPPED, f'{self._elsewhere(run)}; going on with the others.')
            settings = self.scale.settings(run.cell, run.seed)
            state = self.state(run.cell, run.seed)
            outdated = state.kind == DONE and state.result.get('code') != self.code
            if state.kind == DONE and not (outdated and self.rerun_outdated):
                return Outcome(run, DONE, f'{state.text} (before, kept)')
            if outdated or folder.read('run.json').get('settings') != settings:
                aside = folder.set_aside()
                if aside:
                    self.say(f'What was here is of other {"code" if outdated else "settings"} and is kept in {aside}.')
            try:
                result = self._train_and_test(run, settings)
            except StepFailed as error:
                log = folder.test_log if folder.read('run.json').get('step') == 'evaluation' else folder.train_log
                reason = reason_of(error.output)
                folder.note(failure=reason)
                return Outcome(run, FAILED, f'{FAILED}: {reason} ({log})')
            return Outcome(run, DONE, self.state(run.cell, run.seed).text + f' after {result["seconds"]:.0f} s')
        finally:
            unlock_folder(folder.path)

    def _elsewhere(self, run: Run) -> str:
        state = self.state(run.cell, run.seed)
        return f'another process has it ({state.text if state.kind == RUNNING else "of other settings"})'

    def _train_and_test(self, run: Run, settings: Dict[str, Any]) -> Dict[str, Any]:
        cell, folder, scale = run.cell, run.folder, self.scale
        noted = folder.read('run.json')
        starts, seconds = noted.get('starts', 0) + 1, noted.get('seconds_training', 0.)
        codes = list(dict.fromkeys([*noted.get('codes', []), code_version()]))
        folder.note(settings=settings, starts=starts, failure=None, step='training', codes=codes)
        scale.write_config(cell, run.seed, folder.path)
        train, test = self.commands(run)
        length = scale.length(cell)
        unit, last = ('epoch', length['epochs']) if length['epochs'] else ('iter', length['iterations'])
        if folder.checkpoint_step() != (unit, last):
            start = time.time()
            folder.note(training_ended=False)
            try:
                run_script(train, folder.train_log, f'{run}: training', 'train', length['iterations'] or 1, length['epochs'],
                           append=starts > 1, **self._start(run))
                folder.note(training_ended=True)
            finally:
                seconds += time.time() - start
                folder.note(seconds_training=round(seconds, 1))
        folder.note(step='evaluation')
        start = time.time()
        tested = [(checkpoint, *self._test(run, test(str(checkpoint)), append=number > 0)) for number, checkpoint
                  in enumerate(self._candidates(cell, folder, f'{unit}_{last}.pth'))]
        by = scale.best_by(cell)
        compared = {path.name: metrics.get(by) for path, metrics, _ in tested} if len(tested) > 1 else {}
        # Of equal ones the first, as in the training.
        checkpoint, metrics, output = max(tested, key=lambda one: -math.inf if one[1].get(by) is None else one[1][by])
        result = dict(settings=settings, metrics=measured(metrics, output, cell.metrics),
                      parameters=trained_parameters(folder.train_log.read_text(encoding='utf-8')),
                      seconds_training=round(seconds, 1), seconds=round(seconds + time.time() - start, 1), starts=starts,
                      checkpoint=checkpoint.name, compared=compared, version=__version__,
                      machine=machine(self.launch.launcher), gpus=self.launch.gpus,
                      code=codes[0] if len(codes) == 1 else 'several', finished=time.strftime('%Y-%m-%d %H:%M:%S'))
        folder.finish(result)
        return result

    def _candidates(self, cell: Cell, folder: RunFolder, last: str) -> List[Path]:
        """The checkpoints of which the better one is the result: one, unless the training did not end well after the last.

        The last checkpoint is written before its validation, so a training that was killed then has not compared it.
        """
        best = folder.best_checkpoint() if self.scale.best_by(cell) else None
        if best is None:
            return [folder.train / last]
        compared = folder.read('run.json').get('training_ended') or best.name.endswith(f'_{last}')
        return [best] if compared else [best, folder.train / last]

    def _start(self, run: Run) -> Dict[str, Any]:
        """How the scripts of a run are started."""
        return dict(environment=self.launch.environment(str(run.folder.path)), one_process=self.launch.launcher == 'none')

    def _test(self, run: Run, command: Sequence[str], append: bool) -> Tuple[Dict[str, Any], str]:
        """(metrics of an evaluation, its output)."""
        output = run_script(command, run.folder.test_log, f'{run}: evaluating', 'test', append=append, **self._start(run))
        return run.folder.metrics(), output


def trained_parameters(log: str) -> Optional[int]:
    """Trained parameters of the backbone, as the log of a training counts them."""
    found = re.findall(r'trainable in backbone\D+([\d,]+)', log)
    return int(found[-1].replace(',', '')) if found else None


def machine(launcher: str) -> str:
    """What this machine computes on; under Slurm another one does."""
    if launcher == 'slurm':
        return 'Slurm'
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU ({platform.machine()})'


def reason_of(output: str) -> str:
    """The line of a failed script's output that names its error, rather one of mmparax; without any, the last line.

    A launcher reports the failure of its processes after their own errors; that report says nothing.
    """
    lines = [re.sub(r'^\[rank\d+\]: ', '', line.strip()) for line in output.splitlines() if line.strip()]
    named = [(match[1], line) for line in lines if (match := re.match(r'(?:\w+\.)*(\w*(?:Error|Exception))\b', line))
             and not line.startswith('torch.distributed.elastic')]
    own = [line for name, line in named if hasattr(errors, name)]
    return (own or [line for _, line in named] or lines or ['it printed nothing'])[-1]
