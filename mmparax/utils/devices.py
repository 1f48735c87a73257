"""Devices by name."""
import torch
from mmengine.device import get_device

from mmparax.errors import ParameterError
from mmparax.utils.text import get_first_line


def resolve_device(name: str) -> torch.device:
    """The device of a name, ``'auto'`` for the best one of this machine.

    Raises:
        ParameterError: if this machine has no such device.
    """
    try:
        device = torch.device(get_device() if name == 'auto' else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ParameterError('device', name, f'torch has no such device here ({get_first_line(error)})',
                             'Use auto, cpu or cuda.') from error
    return device
