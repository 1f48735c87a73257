"""Runs a script of ``tools/`` with its output in a log file and a line of progress, and ends it when this process ends."""
import ctypes
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from mmparax.errors import UserError
from mmparax.utils.progress import Progress

_LIBC = ctypes.CDLL(None) if sys.platform.startswith('linux') else None
_PR_SET_PDEATHSIG = 1
_TICK = 1.  # seconds between two drawings of the progress while a script says nothing
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
            Progress(total=total, desc=label) as bar:
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
            for line in _read_lines(process.stdout):
                if line is None:
                    bar.refresh()
                    continue
                file.write(line)
                text.append(line)
                _show(line, bar, parse_progress(line, mode, epochs))
            process.wait()
        except BaseException:
            _stop(process)
            raise
        if process.returncode == 0:
            bar.update(bar.total - bar.n)
    if process.returncode:
        raise ScriptError(f'{label} failed; the end of {log}:\n{"".join(text[-25:])}', ''.join(text))
    return ''.join(text)


def _read_lines(stream: IO[str]) -> Iterator[str | None]:
    """Yield the lines of a script, and None where it says nothing for a while: the time goes on."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while True:
        try:
            line = lines.get(timeout=_TICK)
        except queue.Empty:
            yield None
            continue
        if line is None:
            return
        yield line


def _show(line: str, bar: Progress, step: tuple[int, int] | None) -> None:
    """Show what a line of mmengine's log says of the progress, with its estimate, which leaves out the start of the script."""
    if step is None:
        return
    bar.total = step[1]
    left = re.search(r'  eta: (?:(\d+) days?, )?(\d+):(\d+):(\d+)', line)
    if left:
        days, hours, minutes, seconds = (int(part or 0) for part in left.groups())
        bar.set_left(((24 * days + hours) * 60 + minutes) * 60 + seconds)
    loss = re.search(r'  loss: ([\d.]+)', line)
    if loss:
        bar.set_postfix_str(f'loss {float(loss.group(1)):.3f}', refresh=False)
    bar.update(step[0] - bar.n)


def _stop(process: subprocess.Popen) -> None:
    """End a script as its user would, and wait; a checkpoint that it is writing stays whole or does not appear."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
