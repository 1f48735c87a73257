"""One digest of named tensors: for the fingerprint of a base and for the content of an adapter file."""
import hashlib
from collections.abc import Iterable

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
        total.update(value.flatten().view(torch.uint8).numpy())
    return total.hexdigest()
