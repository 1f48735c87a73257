"""The device that an analysis runs on."""
import torch
from mmengine.device import get_device

from mmparax.errors import ParameterError


def resolve_device(name: str) -> str:
    """Return the device of a name, for ``'auto'`` the best one of this machine.

    Raises:
        ParameterError: if this machine has no such device.
    """
    name = get_device() if name == 'auto' else name
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ParameterError('device', name, f'torch has no such device here ({str(error).splitlines()[0]})',
                             'Use auto, cpu or cuda.') from error
    return name
