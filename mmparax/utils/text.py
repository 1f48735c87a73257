"""Lists of names in sentences."""
from collections.abc import Iterable, Sequence


def summarize_names(names: Sequence[str], most: int = 3) -> str:
    """The number of names and the first of them."""
    return f'{len(names)} ({", ".join(names[:most])}{", ..." if len(names) > most else ""})'


def join_names(names: Iterable[str], most: int = 8) -> str:
    """The first of some names, and the number of the others."""
    names = list(names)
    return ', '.join(names[:most]) + (f', and {len(names) - most} more' if len(names) > most else '')
