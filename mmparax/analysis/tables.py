"""Tables as text."""
import io

from rich.console import Console
from rich.table import Table


def as_text(table: Table, width: int) -> str:
    """A table as it is printed, at most ``width`` characters wide."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None).print(table)
    return buffer.getvalue().rstrip()
