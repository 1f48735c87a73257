"""Reads files of weights without running code from them."""
import pickle
from pathlib import Path
from typing import Any, Dict, List, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import load_file
from torch import Tensor

from mmparax.errors import MissingFileError, ParameterError


def plain_globals() -> List[Any]:
    """What a checkpoint of mmengine holds besides tensors: NumPy data and the histories of its message hub.

    ``getattr`` is what HistoryBuffer pickles its methods with; the unpickler calls nothing that is not in this list.
    """
    core = np._core if hasattr(np, '_core') else np.core
    dtypes = [type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'uint32', 'bool')]
    return [HistoryBuffer, getattr, slice, np.ndarray, np.dtype, core.multiarray._reconstruct, core.multiarray.scalar,
            *dtypes]


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
            return load_file(path)
        with torch.serialization.safe_globals(plain_globals()):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise ParameterError(f'the checkpoint {str(path)!r} was not loaded: it is damaged or holds more than tensors and plain '
                         f'data ({str(error).splitlines()[0]}). Get the file again from its source.') from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # safetensors, zip and tar readers each have their own
        raise ParameterError(f'the checkpoint {str(path)!r} is truncated or damaged and was not loaded '
                         f'({type(error).__name__}: {str(error).splitlines()[0] if str(error) else "no detail"}). '
                         'Remove it and get it again.') from error


def read_weights(path: Union[str, Path]) -> Dict[str, Tensor]:
    """Read the weights of a model: found under ``model`` or ``state_dict``, without ``module.`` before the keys.

    Keys of a backbone inside a model lose their ``backbone.``; other parts of the model keep their names, so that
    whoever takes the weights can tell what does not belong.

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
