"""Dotted names of parts of a model: a prefix is a module's name with its dot, or empty for the model itself."""
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar('T')


def join_name(*parts: str) -> str:
    """Join parts of a name by dots; empty parts, such as the name of the model itself, leave none."""
    return '.'.join(part for part in parts if part)


def make_prefix(owner: str) -> str:
    """Return what the names of everything inside the module ``owner`` begin with; empty for the model itself."""
    return f'{owner}.' if owner else ''


def strip_prefix(named: Mapping[str, T], prefix: str) -> dict[str, T]:
    """Return the entries whose names begin with ``prefix``, in their order, by the rest of their names."""
    return {name[len(prefix):]: value for name, value in named.items() if name.startswith(prefix)}


def add_prefix(named: Mapping[str, T], prefix: str) -> dict[str, T]:
    """Return the entries, in their order, by their names behind ``prefix``."""
    return {prefix + name: value for name, value in named.items()}
