"""One line of progress a phase: a bar on a terminal, a few plain lines elsewhere."""
import shutil
import sys
import time
from typing import Any

from tqdm import tqdm

BAR = '{desc:<10} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}, {elapsed} gone, {left} left{postfix}'
WIDTH = 110  # characters at most
PLAIN_SECONDS = 30.  # between plain lines


class Progress(tqdm):
    """tqdm's bar with the time that is left; its options are tqdm's.

    Where the output is no terminal, such as in a log file, it prints a plain line every ``PLAIN_SECONDS`` and one at the end.
    """

    def __init__(self, *args: Any, **options: Any):
        stream = options.get('file') or sys.stderr
        self._plain = not (hasattr(stream, 'isatty') and stream.isatty())
        self._until: float | None = None
        self._printed = time.monotonic()
        self.disable: bool
        width = min(shutil.get_terminal_size().columns, WIDTH) - 1
        super().__init__(*args, **{'bar_format': BAR, 'ncols': width, **options})

    def set_left(self, seconds: float) -> None:
        """Say how long the rest takes, for a work that knows better than its steps so far."""
        self._until = time.monotonic() + seconds

    @property
    def format_dict(self) -> dict[str, Any]:
        """tqdm's values and ``left``."""
        values = super().format_dict
        rate = values['rate'] or ((self.n - self.initial) / values['elapsed'] if values['elapsed'] else 0)
        left = None
        if self._until is not None:
            left = max(0., self._until - time.monotonic())
        elif rate and self.total:
            left = (self.total - self.n) / rate
        return {**values, 'left': '?' if left is None else self.format_interval(left)}

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Draw the bar, or print a line if it is time for one."""
        if not self._plain:
            return super().display(msg, pos)
        if self.n and self.n != self.total and time.monotonic() - self._printed >= PLAIN_SECONDS:
            values = self.format_dict
            self._print(f'{self.n} of {self.total or "?"}, {self.format_interval(values["elapsed"])} gone, {values["left"]} left')
        return True

    def close(self) -> None:
        """End the line."""
        if not self._plain:
            super().close()
        elif not self.disable:
            self.disable = True
            self._decr_instances(self)
            done = 'done' if self.total in (None, self.n) else f'ended at {self.n} of {self.total}'
            if self.leave is not False:
                self._print(f'{done} in {self.format_interval(self.format_dict["elapsed"])}')

    def _print(self, text: str) -> None:
        self._printed = time.monotonic()
        self.fp.write(f'{self.desc or "progress"}: {text}{", " * bool(self.postfix)}{self.postfix or ""}\n')
        self.fp.flush()
