"""Types of numbers: what products are computed in under autocast, and what sums need."""
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def find_sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)


def find_product_dtype(x: Tensor) -> torch.dtype:
    """The type of products of ``x``: autocast's where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def disable_autocast(device_type: str) -> AbstractContextManager:
    """Switch autocast off; nothing where it is off: torch.export makes every switch a graph of its own, slowly."""
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()
