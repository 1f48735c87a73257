"""What the checks of a config found, and the verdict."""
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mmparax.errors import TRACEBACK, UserError

OK, WARNING, PROBLEM, SKIPPED = 'ok', 'warning', 'problem', 'skipped'


@dataclass
class Finding:
    """The outcome of one check: ``status`` is ``'ok'``, ``'warning'``, ``'problem'`` or ``'skipped'``."""
    check: str
    status: str
    text: str


Report = Callable[[Finding], None]


class Findings(list[Finding]):
    """Findings in their order, each reported as soon as there is one.

    Args:
        report: called with every finding.
    """

    def __init__(self, report: Report):
        super().__init__()
        self.report = report

    def add(self, check: str, status: str, text: str) -> None:
        self.append(Finding(check, status, text))
        self.report(self[-1])

    @contextmanager
    def report_errors(self, check: str) -> Iterator[None]:
        """Make a problem of every error inside."""
        try:
            yield
        except UserError as error:
            self.add(check, PROBLEM, str(error))
        except Exception as error:  # whatever a toolbox raises is a finding, too
            if os.environ.get(TRACEBACK):
                raise
            self.add(check, PROBLEM, f'{_name_error(error)} (set {TRACEBACK}=1 to see where)')


def _name_error(error: Exception) -> str:
    """One line of an error; PyTorch makes that of a worker process anew from its whole traceback, which ends in it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].startswith('Caught ') and len(lines) > 1:
        return lines[-1]
    return f'{type(error).__name__}: {lines[0] if lines else "no message"}'


def summarize(findings: list[Finding]) -> tuple[bool, str]:
    """Sum the findings up: (whether training may start, the sentence that says so)."""
    problems = [finding.check for finding in findings if finding.status == PROBLEM]
    warnings = [finding.check for finding in findings if finding.status == WARNING]
    note = f' {len(warnings)} warning(s): {", ".join(warnings)}.' if warnings else ''
    if problems:
        return False, f'NOT READY: {len(problems)} problem(s): {", ".join(problems)}.{note}'
    return True, f'READY to train.{note}'
