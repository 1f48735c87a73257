"""Replaces mmengine's reading and matching of checkpoints by safe and strict ones, for every toolbox.

mmengine falls back to full unpickling when a file holds more than tensors and plain data, and then runs the code in it.
It loads what fits of a checkpoint and logs the rest: adapters would run on a random base.
"""
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import nn

from mmparax.checkpoint.installation import originals
from mmparax.errors import InputError
from mmparax.utils.modules import unwrap_model
from mmparax.utils.names import join_name, make_prefix, strip_prefix
from mmparax.weights.adapter_file import VerifiedDescription, as_checkpoint
from mmparax.weights.claims import CHECKED, CLAIM, EMA, EMA_OWNER, ORIGINS, attach_claim
from mmparax.weights.metadata import decode_meta
from mmparax.weights.reader import build_refusal, has_digest, read_file, read_torch
from mmparax.weights.schema import check_form
from mmparax.weights.seal import UNSEALED
from mmparax.weights.sources import fetch

FRESH_HEAD = 'fresh_head'  # in the claim of an adapter file that a training starts from: the head may start fresh


# mmengine logs the part of the names behind "load_from_".
def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Read a local file or, with ``mmparax://``, one that ships with the package.

    Raises:
        MissingFileError: if it does not exist.
        InputError: if it is damaged or holds more than tensors and plain data.
    """
    path = fetch(filename, 'checkpoint')
    content = read_file(path, map_location or 'cpu')
    if not has_digest(path, content):
        print_log(f'{filename!r} {UNSEALED}.', logger='current')
    content = decode_meta(as_checkpoint(content, filename), filename)
    check_form(content, filename)
    return add_claim(content)


def load_from_http(filename: str, map_location: Any = None, model_dir: Any = None, progress: Any = None) -> Any:
    """Read the file of a URL, downloaded once per machine."""
    return load_from_local(filename, map_location)


def load_from_storage(filename: str, map_location: Any = None, **_: Any) -> Any:
    """Refuse a file of a storage that mmengine can only read unsafely.

    Raises:
        InputError: always.
    """
    raise InputError(f'{filename!r} was not loaded: this version of mmengine would run code in files of such a storage. Copy the '
                     'file to a local folder and give its path, or install the versions in requirements.txt.')


def add_claim(content: Any) -> Any:
    """Put what a checkpoint's metadata say of mmparax into the metadata of its state dicts, the only ones that loading sees."""
    described = (content.get('meta') or {}).get('mmparax') if isinstance(content, dict) else None
    if isinstance(described, dict):
        names = list(described['backbones']) if isinstance(described.get('backbones'), dict) else []
        for key, owner in (('state_dict', ''), (EMA, EMA_OWNER)):
            if isinstance(content.get(key), dict):
                content[key] = attach_claim(content[key], described, [join_name(owner, name) for name in names])
                content[key]._metadata[CLAIM] = described
                for name in names:
                    entry = described['backbones'][name]
                    if isinstance(entry, dict) and ORIGINS in entry:  # of a file that holds no metadata but these
                        content[key]._metadata[join_name(owner, name)].setdefault(ORIGINS, entry[ORIGINS])
    return content


def load_stream(file: Any, map_location: Any = None, weights_only: Any = None) -> Any:
    """Stand-in for mmengine's own ``torch.load``, which its loaders of other storages call."""
    try:
        return read_torch(file, map_location or 'cpu')
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise build_refusal(str(getattr(file, 'name', 'from remote storage')), error) from error


def check_fit(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Let each adapted backbone of a model judge its part of a checkpoint, and the fingerprint that it claims.

    Raises:
        InputError: if a part does not fit or was made on another base.
        RandomBaseError: if the checkpoint holds no base and the model has none either.
    """
    backbones = [(name, part) for name, part in model.named_modules() if hasattr(part, 'check_state')]
    claim = (getattr(state_dict, '_metadata', None) or {}).get(CLAIM) or {}
    if not backbones and not isinstance(claim, VerifiedDescription):
        return
    # Imported here, because these modules need the toolboxes and this one is imported with the package.
    from mmparax.checkpoint.compatibility import check_adapter, check_base
    from mmparax.checkpoint.contents import find_backbones_without_base_checkpoint
    from mmparax.checkpoint.fingerprint import check_fingerprint
    if isinstance(claim, VerifiedDescription):
        check_adapter(model, claim, state_dict, f'the adapter file {claim["source"]!r}',
                      'any part' if claim.get(FRESH_HEAD) else 'required')
        return
    small = False  # whether the checkpoint leaves a frozen base out
    for name, part in backbones:
        given = strip_prefix(state_dict, make_prefix(name))
        part.check_state(given)
        small = small or part.method is not None and part.frozen_parameters().keys().isdisjoint(given)
    if small:
        check_base(model, claim, 'the checkpoint')
    elif claim.get('fingerprint') and not find_backbones_without_base_checkpoint(model):
        check_fingerprint(model, claim, 'the checkpoint')


def load_state_dict(module: nn.Module, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
    """mmengine's ``load_state_dict``, after each adapted backbone in ``module`` has judged its part.

    Raises:
        InputError: if a part does not fit; nothing is loaded then.
    """
    model = unwrap_model(module)
    check_fit(model, state_dict)
    backbones = [name for name, part in model.named_modules() if hasattr(part, 'check_state')]
    originals['load_state_dict'](module, attach_claim(state_dict, CHECKED, backbones), *args, **kwargs)
