"""Reads files of weights without running code from them."""
import pickle
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from mmparax.errors import InputError, MissingFileError
from mmparax.utils.text import get_first_line
from mmparax.weights.seal import ADAPTER_KEY, KEY, check_metadata
from mmparax.weights.torch_file import is_sealed, read_torch


def read_safetensors(path: Path, map_location: Any = 'cpu') -> dict[str, Any]:
    """Return ``dict(state_dict=tensors by name, meta=the texts of the file's header)``."""
    with safe_open(path, 'pt') as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
        meta = dict(file.metadata() or {})
    check_metadata(weights, meta, str(path))
    if not callable(map_location):
        weights = {name: value.to(map_location) for name, value in weights.items()}
    return dict(state_dict=weights, meta=meta)


def read_file(path: str | Path, map_location: Any = 'cpu') -> Any:
    """Read a checkpoint: ``.safetensors``, else a torch file, by an unpickler that constructs nothing but plain data.

    Raises:
        MissingFileError: if the file does not exist.
        InputError: if it is truncated, damaged, or holds anything but tensors and plain data.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingFileError(f'the checkpoint {str(path)!r} does not exist; check the path (relative paths start at the '
                               'folder in which the command runs).')
    with path.open('rb') as file:
        head = file.read(64)
        # The first bytes of a safetensors file are a number, in which these signs may stand, too; but no text holds a NUL.
        if head.lstrip().startswith(b'<') and b'\0' not in head:
            raise InputError(f'the checkpoint {str(path)!r} is a web page (HTML or XML), not a checkpoint: its address may '
                             'have moved or need a login. Remove it and get the file itself.')
    if path.suffix != '.safetensors' and not head.startswith((b'PK', b'\x80')):  # torch's archives and older pickles
        raise InputError(f'the checkpoint {str(path)!r} is truncated or damaged, or no checkpoint at all: it is neither a '
                         'torch nor a safetensors file. Check the path, or get the file again.')
    try:
        return read_safetensors(path, map_location) if path.suffix == '.safetensors' else read_torch(path, map_location)
    except (OSError, MemoryError, InputError):
        raise
    except Exception as error:  # safetensors, zip and tar readers each have their own
        if path.suffix == '.safetensors' and head.startswith((b'PK', b'\x80')):
            raise InputError(f'the checkpoint {str(path)!r} is a torch file or another pickle under the name of a '
                             'safetensors file: nothing of it was read. Get the file again from its source.') from error
        raise build_refusal(str(path), error) from error


def has_digest(path: str | Path, content: Any) -> bool:
    """Whether a file that :func:`read_file` has read was compared with a digest in it; adapter files always have one."""
    if Path(path).suffix == '.safetensors':
        return any(name in content['meta'] for name in (KEY, ADAPTER_KEY))
    return is_sealed(path)


def build_refusal(name: str, error: Exception) -> InputError:
    """Return, without raising it, the error for a file that was not read."""
    unsupported = re.search(r'Unsupported (?:global|operand|class)[^\n.]*(?:\.[\w]+)*', str(error))
    detail = unsupported.group() if unsupported else get_first_line(error)
    if isinstance(error, pickle.UnpicklingError):
        return InputError(f'the checkpoint {name!r} was not loaded: it is damaged or holds more than tensors and plain '
                          f'data ({detail}). Get the file again from its source.')
    return InputError(f'the checkpoint {name!r} is truncated or damaged and was not loaded ({type(error).__name__}: '
                      f'{detail}). Check the path, or get the file again.')


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a model, which may stand under ``model`` or ``state_dict``.

    Returns:
        Name -> tensor. Names lose the prefixes ``module.`` and ``backbone.``; other parts of a model keep theirs, so that
        whoever takes the weights can tell what does not belong.

    Raises:
        MissingFileError: if the file does not exist.
        InputError: if it cannot be read or holds no weights.
    """
    content = read_file(path)
    for wrapper in ('state_dict', 'model'):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    weights = {name: value for name, value in content.items() if isinstance(value, Tensor)} \
        if isinstance(content, dict) else {}
    if not weights:
        sets = {name: value for name, value in content.items() if _holds_tensors(value)} if isinstance(content, dict) else {}
        if sets:
            raise InputError(
                f'the checkpoint {str(path)!r} holds {len(sets)} set(s) of weights, {", ".join(map(repr, sets))}, and '
                'none under "model" or "state_dict". Save the one that you mean to a file of its own '
                f"(torch.save(torch.load(path)[{next(iter(sets))!r}], new_path)) and give that.")
        raise InputError(f'the checkpoint {str(path)!r} holds no weights: expected tensors by name, at top level or under '
                         '"model" or "state_dict".')
    return {name.removeprefix('module.').removeprefix('backbone.'): value for name, value in weights.items()}


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(entry, Tensor) for entry in value.values())
