"""Judges the part of a checkpoint that belongs to a backbone, before anything of it is copied."""
from typing import Any, Collection, List, Mapping, Sequence

import torch
from torch import Tensor

from mmparax.checkpoint.base import ignorable
from mmparax.errors import ParameterError

# Among the metadata that a state dict has of each module: what the checkpoint says of itself, or CHECKED once the model was
# compared with it. An object, because no file can hold it.
CLAIM, CHECKED = 'mmparax', object()
EMA, EMA_PREFIX = 'ema_state_dict', 'module.'  # mmengine's key in a checkpoint, and what is before the names below it
REMEDY = ('Give the checkpoint of this config (same arch and adapter); the file of a pre-trained trunk belongs to '
          'model.backbone.base_checkpoint. Nothing was loaded.')


def listed(names: Sequence[str], most: int = 3) -> str:
    """The number of names and the first of them."""
    return f'{len(names)} ({", ".join(names[:most])}{", ..." if len(names) > most else ""})'


def wrong_shapes(given: Mapping[str, Any], expected: Mapping[str, Tensor]) -> List[str]:
    """What of ``given`` has another shape than expected, in words."""
    return [f'{name} {tuple(given[name].shape)} instead of {tuple(value.shape)}' for name, value in expected.items()
            if isinstance(given.get(name), Tensor) and given[name].shape != value.shape]


def misfit(missing: Sequence[str], wrong: Sequence[str], unexpected: Sequence[str]) -> str:
    """What does not fit, in words; empty if all does."""
    return '; '.join(f'{listed(names)} {label}' for label, names in
                     (('missing', missing), ('of another shape', wrong), ('unexpected', unexpected)) if names)


def check_keys(owner: str, given: Mapping[str, Any], expected: Mapping[str, Tensor], trunk: Collection[str],
               optional: Collection[str]) -> None:
    """Check that a checkpoint has what a backbone trains, and nothing of another model.

    Args:
        owner: the backbone, for the error.
        given: the checkpoint's keys of this backbone, without prefix.
        expected: the backbone's own state, parameters and buffers.
        trunk: names that may be absent as a whole: the frozen trunk, which a small checkpoint leaves out.
        optional: names that may be absent one by one: buffers of the trunk, which are computed again.

    Raises:
        ParameterError: naming the keys that are missing, of another shape or unexpected.
    """
    has_trunk = any(name in given for name in trunk)
    missing = [name for name in expected if name not in given and name not in optional
               and (has_trunk or name not in trunk)]
    problems = misfit(missing, wrong_shapes(given, expected),
                      [name for name in given if name not in expected and not ignorable(name)])
    if problems:
        raise ParameterError(f'the checkpoint does not fit {owner}: of its {len(expected)} weights {problems}. {REMEDY}')


def differing(given: Mapping[str, Any], present: Mapping[str, Tensor]) -> List[str]:
    """Names of the tensors of ``present`` that ``given`` has, too, but otherwise, after rounding to the given dtype."""
    return [name for name, value in present.items() if isinstance(given.get(name), Tensor)
            and not torch.equal(value.to(given[name].device, given[name].dtype), given[name])]


def check_same_base(owner: str, base_checkpoint: str, given: Mapping[str, Any], present: Mapping[str, Tensor]) -> None:
    """Check that what a checkpoint has of the frozen trunk is what was loaded from ``base_checkpoint``.

    Raises:
        ParameterError: if they differ: the adapters of the checkpoint were trained on another base.
    """
    others = differing(given, present)
    if others:
        raise ParameterError(f'the checkpoint was trained on another base than {base_checkpoint!r}, which {owner} has loaded: '
                             f'{listed(others)} of {len(present)} frozen weights differ. Set model.backbone.base_checkpoint '
                             'to the base of the checkpoint; nothing was loaded.')
