"""Names, values and errors in sentences."""
from collections.abc import Iterable, Sequence
from typing import Any


def summarize_names(names: Sequence[str], most: int = 3) -> str:
    """The number of names and the first of them."""
    return f'{len(names)} ({", ".join(names[:most])}{", ..." if len(names) > most else ""})'


def join_names(names: Iterable[str], most: int = 8) -> str:
    """The first of some names, and the number of the others."""
    names = list(names)
    return ', '.join(names[:most]) + (f', and {len(names) - most} more' if len(names) > most else '')


def describe_value(value: Any, most: int = 40) -> str:
    """A value of a file in a sentence: its type, and itself if it is short."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        text = repr(value if not isinstance(value, int) or abs(value) < 10**most else 'a huge number')
        if len(text) <= most:
            return text
    return f'a {type(value).__name__}'


def get_first_line(error: object) -> str:
    """The first line of what an error says; the name of its kind if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def summarize_error(error: BaseException) -> str:
    """The kind of an error and the first line of what it says, if there is one."""
    kind, line = type(error).__name__, get_first_line(error)
    return kind if line == kind else f'{kind}: {line}'
