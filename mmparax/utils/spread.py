"""Samples that do not leave out the end."""
from collections.abc import Sequence

import numpy as np


def spread(count: int, sample: int | None) -> Sequence[int]:
    """``sample`` of the numbers from 0 to ``count``, evenly spread; all if there are no more, or if it is None."""
    if sample is None or count <= sample:
        return range(count)
    return np.linspace(0, count - 1, sample).round().astype(int).tolist()
