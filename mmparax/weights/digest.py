"""Digests of named tensors: for the content of an adapter file and for the fingerprint of a base."""
import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def compute_digest(named: Iterable[tuple[str, Tensor]]) -> str:
    """Return the SHA-256 over name, shape, dtype and bytes of each tensor, in the order of the names.

    A tensor adds the line ``name (2, 3) torch.float32`` in UTF-8, with its newline, and then its elements, row by row.
    """
    total = hashlib.sha256()
    for name, value in sorted(named, key=lambda entry: entry[0]):
        value = value.detach().cpu().contiguous()
        total.update(f'{name} {tuple(value.shape)} {value.dtype}\n'.encode())
        total.update(_view_bytes(value))
    return total.hexdigest()


def describe_tensor(value: Tensor) -> str:
    """Return the text ``(2, 3) torch.float32 DIGEST``: shape, dtype and the SHA-256 of the elements, row by row."""
    value = value.detach().cpu().contiguous()
    return f'{tuple(value.shape)} {value.dtype} {hashlib.sha256(_view_bytes(value)).hexdigest()}'


def combine_descriptions(described: Mapping[str, str]) -> str:
    """Return the SHA-256 over a line for each tensor: its name, a space, what :func:`describe_tensor` says, a newline.

    Args:
        described: name -> text; the order does not matter.
    """
    return hashlib.sha256(''.join(f'{name} {described[name]}\n' for name in sorted(described)).encode()).hexdigest()


def _view_bytes(value: Tensor) -> memoryview:
    return memoryview(value.flatten().view(torch.uint8).numpy())
