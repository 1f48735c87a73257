"""Lists of names in sentences."""
from typing import Sequence


def listed(names: Sequence[str], most: int = 3) -> str:
    """The number of names and the first of them."""
    return f'{len(names)} ({", ".join(names[:most])}{", ..." if len(names) > most else ""})'
