"""What a state dict says of itself: by which method and on which base it was trained."""
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmparax.errors import InputError

# Key among the metadata that a state dict has of each module. Its value is what the checkpoint says, or CHECKED once the
# model was compared with it: an object, because no file can hold it.
CLAIM, CHECKED = 'mmparax', object()
# Key there of what a base checkpoint held where the model has something else: its fingerprint is that of the file.
ORIGINS = 'mmparax_origins'
EMA, EMA_OWNER = 'ema_state_dict', 'module'  # mmengine's key in a checkpoint, and the module that the names below it begin with


def attach_claim(weights: Mapping[str, Any], claim: Any, modules: Iterable[str]) -> 'OrderedDict[str, Any]':
    """Return a copy of a state dict with ``claim`` in the metadata of some modules, each of which sees it when it is loaded."""
    copied: Any = OrderedDict(weights)  # of which torch keeps the metadata in an attribute
    known = getattr(weights, '_metadata', None) or {}
    copied._metadata = {**known, **{name: {**known.get(name, {}), CLAIM: claim} for name in modules}}
    return copied


def read_origins(metadata: Mapping[str, Any]) -> dict[str, list[str | None]]:
    """Return what a state dict's metadata of a backbone say of its base checkpoint; empty if they say nothing, or nonsense.

    Returns:
        Name -> [description of the tensor in the file, description of what the model made of it, or None].
    """
    found = metadata.get(ORIGINS)
    if not isinstance(found, Mapping):
        return {}
    return {
        name: list(texts) for name, texts in found.items() if isinstance(name, str) and isinstance(texts, (list, tuple))
        and len(texts) == 2 and isinstance(texts[0], str) and isinstance(texts[1], (str, type(None)))
    }


def name_conversions(values: Iterable[Tensor]) -> str | None:
    """Return the names of the dtypes other than float32 among tensors, or None if there are none."""
    return ', '.join(sorted(str(dtype)[len('torch.'):] for dtype in {value.dtype for value in values} - {torch.float32})) or None


def name_bases(claim: Mapping[str, Any]) -> str:
    """Return the base checkpoints of a claim for a message."""
    return ', '.join(repr(entry.get('base_checkpoint')) for entry in (claim.get('backbones') or {}).values())


def check_claimed_fingerprint(claim: Mapping[str, Any], own: str | None, frozen: Iterable[Tensor], source: str,
                              owner: str) -> None:
    """Check that a checkpoint was made on the base that a model has; fine if one of the two has no fingerprint.

    Args:
        claim: what the checkpoint says of itself.
        own: the fingerprint of the model's base.
        frozen: the parameters of that base.
        source: the checkpoint, for the error.
        owner: the model, for the error.

    Raises:
        InputError: with both fingerprints, or because the base was converted since it was loaded.
    """
    theirs = claim.get('fingerprint')
    if not theirs or not own or theirs == own:
        return
    converted = name_conversions(frozen)
    if converted:
        raise InputError(f'{source} cannot be compared with the base of {owner}, whose frozen weights are {converted} now, not '
                         'float32 as they were loaded: load it first, then convert the model (.half() or .to(dtype)).')
    raise InputError(f'{source} was trained on another base: its fingerprint is {theirs[:12]}… ({name_bases(claim)}), that of '
                     f'the loaded base {own[:12]}…. Set model.backbone.base_checkpoint to the base that it was trained on; one '
                     'in half precision is another, too.')
