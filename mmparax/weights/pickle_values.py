"""What stands in for the parts of a pickle while it is read, and checks of arguments from a file."""
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

KEYS = (str, int, float, bool, bytes, type(None), torch.dtype, torch.device)  # hashed without running code of the file


class Refusal(pickle.UnpicklingError):
    """A pickle that holds what is not taken."""


@dataclass(frozen=True)
class Function:
    """What a name in a file stands for: called with the arguments of the file, it checks them."""
    name: str
    call: Callable[..., Any]


@dataclass(frozen=True)
class StorageType:
    """The type of values of a tensor's memory."""
    dtype: torch.dtype


@dataclass(frozen=True)
class Allowed:
    """A class or function that the user allowed on purpose."""
    name: str
    target: Any


@dataclass(frozen=True)
class HistoryMethod:
    """One of the four methods with which mmengine pickles every HistoryBuffer."""
    name: str


@dataclass
class Unfinished:
    """An object whose state follows in a BUILD operation, which puts the finished one in its place."""
    kind: str
    finish: Callable[[Any], Any]
    memo_keys: list[int] = field(default_factory=list)


@dataclass
class Budget:
    """Bytes that all tensors of a file together may still have: many views of one memory become many copies later."""
    left: int

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Refusal('tensors that are together many times as large as the file')


@dataclass(frozen=True)
class StoredValues:
    """Memory of tensors.

    Attributes:
        data: (bytes, ) uint8.
        dtype: of its values.
        budget: of the file.
    """
    data: Tensor
    dtype: torch.dtype
    budget: Budget


# ---- checks of arguments ----


def check_key(value: Any) -> Any:
    """Return a key of a dict or entry of a set if hashing it is safe: deeply nested tuples would overflow C's stack."""
    if isinstance(value, KEYS) or type(value) is tuple and all(isinstance(entry, KEYS) for entry in value):
        return value
    raise Refusal(f'a key that is a {type(value).__name__}')


def expect(value: Any, *types: type) -> Any:
    """Return ``value`` if its type is exactly one of ``types``."""
    if type(value) not in types:
        raise Refusal(f'a {type(value).__name__} where a {types[0].__name__} belongs')
    return value


def expect_sizes(value: Any) -> tuple[int, ...]:
    """Return a tuple of non-negative integers, at most 64 of them."""
    sizes = tuple(expect(value, tuple, list, torch.Size))
    if len(sizes) > 64 or any(type(size) is not int or not 0 <= size < 2**62 for size in sizes):
        raise Refusal('sizes that are not non-negative integers')
    return sizes
