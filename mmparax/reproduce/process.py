"""Runs a script of ``tools/`` with its output in a log file and a progress bar, and ends it when this process ends."""
import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from mmparax.errors import UserError

_LIBC = ctypes.CDLL(None) if sys.platform.startswith('linux') else None
_PR_SET_PDEATHSIG = 1
_LINE = re.compile(r'(?:Iter|Epoch)\((train|val|test)\) +(?:\[ *(\d+)\])?\[ *(\d+)/(\d+)\]')


class ScriptError(UserError):
    """A script of ``tools/`` that ended with an error.

    Attributes:
        output: all that it printed.
    """

    def __init__(self, message: str, output: str):
        super().__init__(message)
        self.output = output


def parse_progress(line: str, mode: str, epochs: int | None = None) -> tuple[int, int] | None:
    """Read (iterations done, of how many) off a line of mmengine's log.

    Args:
        line: a line of the log, or several; the last one counts.
        mode: ``'train'`` or ``'test'``.
        epochs: of the training, if it counts them.

    Returns:
        None if there is nothing about this mode.
    """
    found = None
    for kind, epoch, step, total in _LINE.findall(line):
        if kind == mode:
            before = (int(epoch) - 1) * int(total) if epoch else 0
            found = before + int(step), int(total) * (epochs or 1 if epoch else 1)
    return found


def run_script(command: Sequence[str], log: Path, label: str, mode: str, total: int = 1, epochs: int | None = None,
               append: bool = False, environment: Mapping[str, str] | None = None, one_process: bool = True) -> str:
    """Run a script to its end.

    Args:
        command: what to run.
        log: file for its output.
        label: shown with the progress bar.
        mode: ``'train'`` or ``'test'``: whose iterations the bar counts.
        total: iterations, as far as they are known before.
        epochs: of the training, if it counts them.
        append: keep what the log holds.
        environment: added to this process's.
        one_process: it computes in one process, which gets all cores but one unless the user says how many.

    Returns:
        Its output.

    Raises:
        ScriptError: if it fails, with the end of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    text = []
    # One core is left to the process that loads the images; threads that share a core wait for each other.
    threads = dict(OMP_NUM_THREADS=str(max(1, (os.cpu_count() or 2) - 1))) if one_process else {}
    with open(log, 'a' if append else 'w', encoding='utf-8', buffering=1) as file, \
            tqdm(total=total, desc=label, unit='it') as bar:
        file.write(f'$ {shlex.join(command)}\n')
        process = subprocess.Popen(
            list(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            env={**threads, **os.environ, **(environment or {})},
            # Nobody reads its output or waits for its result once this process was killed.
            preexec_fn=(lambda: _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)) if _LIBC else None)
        try:
            for line in process.stdout:
                file.write(line)
                text.append(line)
                step = parse_progress(line, mode, epochs)
                if step:
                    bar.total = step[1]
                    bar.update(step[0] - bar.n)
                    loss = re.search(r'  loss: ([\d.]+)', line)
                    if loss:
                        bar.set_postfix_str(f'loss {float(loss.group(1)):.3f}')
            process.wait()
        except BaseException:
            _stop(process)
            raise
        if process.returncode == 0:
            bar.update(bar.total - bar.n)
    if process.returncode:
        raise ScriptError(f'{label} failed; the end of {log}:\n{"".join(text[-25:])}', ''.join(text))
    return ''.join(text)


def _stop(process: subprocess.Popen) -> None:
    """End a script as its user would, and wait; a checkpoint that it is writing stays whole or does not appear."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
