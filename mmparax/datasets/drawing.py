"""Which images are kept for validation."""
import hashlib
from collections.abc import Callable, Iterable
from typing import TypeVar

Item = TypeVar('Item')


def draw_validation(items: Iterable[Item], name: Callable[[Item], str], ratio: float, seed: int) -> tuple[list[Item], list[Item]]:
    """Return (training, validation), neither of them empty if there are two items.

    By a digest of the names: the same on every machine, and new images move few of the old ones.
    """
    drawn = sorted(items, key=lambda item: hashlib.sha256(f'{seed}/{name(item)}'.encode()).digest())
    count = min(max(round(ratio * len(drawn)), 1), len(drawn) - 1)
    return drawn[count:], drawn[:count]
