"""Reads the reference values of the public implementation (float64)."""
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parents[1] / 'golden'


class Golden:
    """One file of named arrays; ``golden['name']`` is a float64 tensor, or a plain number or tuple for ``config.*``."""

    def __init__(self, name):
        with np.load(FOLDER / f'{name}.npz') as file:
            self.arrays = {key: file[key] for key in file}

    def __getitem__(self, key):
        value = self.arrays[key]
        if key.startswith('config.') or key == 'H_W':
            return value.item() if value.ndim == 0 else tuple(int(item) for item in value)
        return torch.from_numpy(value)

    def group(self, prefix):
        """The tensors below a prefix, by the rest of their names."""
        return {key[len(prefix):]: torch.from_numpy(value) for key, value in self.arrays.items() if key.startswith(prefix)}
