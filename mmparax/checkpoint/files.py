"""Reads files of weights without running code from them."""
import pickle
from pathlib import Path
from typing import Any, Dict, Union

import torch
from torch import Tensor

from mmparax.errors import MissingFileError, ParameterError


def read_file(path: Union[str, Path]) -> Any:
    """Read a checkpoint: ``.safetensors``, else a torch file with ``weights_only=True`` and mmengine's own types.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is truncated, damaged, or holds anything but tensors and plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f'the checkpoint {str(path)!r} does not exist; check the path (relative paths start at the '
                                'folder in which the command runs).')
    try:
        if path.suffix == '.safetensors':
            from safetensors.torch import load_file
            return load_file(path)
        from mmengine.runner.checkpoint import get_torch_safe_globals
        with torch.serialization.safe_globals(get_torch_safe_globals()):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise ParameterError(f'the checkpoint {str(path)!r} was not loaded: it is damaged or holds more than tensors and plain '
                         f'data ({str(error).splitlines()[0]}). Get the file again from its source.') from error
    except Exception as error:  # safetensors, zip and tar readers each have their own
        raise ParameterError(f'the checkpoint {str(path)!r} is truncated or damaged and was not loaded '
                         f'({type(error).__name__}: {str(error).splitlines()[0] if str(error) else "no detail"}). '
                         'Get the file again.') from error


def read_weights(path: Union[str, Path]) -> Dict[str, Tensor]:
    """Read the weights of a model: found under ``model`` or ``state_dict``, without ``module.`` before the keys.

    If any key starts with ``backbone.``, only those are the backbone's and they lose that prefix; the others keep
    their names.

    Raises:
        ValueError: if the file holds no weights.
    """
    content = read_file(path)
    for wrapper in ('state_dict', 'model'):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    weights = {name: value for name, value in content.items() if isinstance(value, Tensor)} \
        if isinstance(content, dict) else {}
    if not weights:
        raise ParameterError(f'the checkpoint {str(path)!r} holds no weights: expected tensors by name, at top level or under '
                         '"model" or "state_dict".')
    for prefix in ('module.', 'backbone.'):
        weights = {name[len(prefix):] if name.startswith(prefix) else name: value for name, value in weights.items()}
    return weights
