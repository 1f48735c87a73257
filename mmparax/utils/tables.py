"""Tables, and what stands in them, as text."""
import io
import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def render_table(table: Table, width: int) -> str:
    """A table as it is printed, at most ``width`` characters wide."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None).print(table)
    return buffer.getvalue().rstrip()


def format_mean_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean and, of several values, sample standard deviation."""
    text = f'{statistics.mean(values):.{digits}f}'
    return text + (f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else '')
