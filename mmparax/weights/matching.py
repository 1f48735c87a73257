"""Compares named tensors of a file with those of a model, before anything is copied; knows no model."""
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmparax.errors import InputError
from mmparax.utils.text import summarize_names

# Parts of published files that a backbone does not take: classifiers, the final norm (output norms start fresh), buffers
# that are computed again, and what only pre-training needs.
IGNORED_PREFIXES = ('head.', 'head_dist.', 'norm.', 'fc_norm.', 'decoder_', 'neck.')
IGNORED_NAMES = ('attn_mask', 'relative_position_index', 'mask_token')
REMEDY = ('Give the checkpoint of this config (same arch and adapter); a base checkpoint belongs to '
          'model.backbone.base_checkpoint. Nothing was loaded.')


def is_ignorable(name: str) -> bool:
    """Whether a key of a base checkpoint may be left out without a word."""
    return (name.startswith(IGNORED_PREFIXES) or re.match(r'norm\d+\.', name) is not None
            or any(part in name.split('.') for part in IGNORED_NAMES))


@torch.no_grad()
def copy_base(
    parameters: Mapping[str, nn.Parameter], weights: dict[str, Tensor], source: str, owner: str,
    explain: Callable[[list[str], list[str]], tuple[str, str]] = lambda missing, unexpected: ('', '')) -> None:
    """Copy ``weights`` into ``parameters`` after checking that they are the same set of names and shapes.

    Args:
        parameters: name -> parameter.
        weights: of the file, in the layout of the parameters.
        source: where they come from, for the error.
        owner: the backbone, for the error.
        explain: what the file is and the remedy, from what is missing and unexpected; '' for what is not known.

    Raises:
        InputError: listing the keys that are missing, unexpected or of another shape; nothing is copied then.
    """
    missing = [name for name in parameters if name not in weights]
    unexpected = [name for name in weights if name not in parameters and not is_ignorable(name)]
    problems = describe_misfit(missing, find_wrong_shapes(weights, parameters), unexpected)
    if problems:
        layout, remedy = explain(missing, unexpected)
        remedy = remedy or 'give the file of this arch (arch, window_size, patch_size), or change the arch'
        raise InputError(
            f'base_checkpoint={source!r} does not fit {owner}: {f"it is {layout}. " if layout else ""}'
            f'{"Of" if layout else "of"} {len(parameters)} weights {problems}. {remedy[0].upper()}{remedy[1:]}; nothing '
            'was loaded.')
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


def find_wrong_shapes(given: Mapping[str, Any], expected: Mapping[str, Tensor]) -> list[str]:
    """Return the names of ``given`` that have another shape than expected, with both shapes."""
    return [
        f'{name} {tuple(given[name].shape)} instead of {tuple(value.shape)}' for name, value in expected.items()
        if isinstance(given.get(name), Tensor) and given[name].shape != value.shape
    ]


def describe_misfit(missing: Sequence[str], wrong: Sequence[str], unexpected: Sequence[str]) -> str:
    """Return what does not fit as a clause with counts and the first names; empty if all does."""
    return '; '.join(f'{summarize_names(names)} {label}'
                     for label, names in (('missing', missing), ('of another shape', wrong), ('unexpected', unexpected)) if names)


def check_keys(owner: str, given: Mapping[str, Any], expected: Mapping[str, Tensor], frozen: Collection[str],
               optional: Collection[str]) -> None:
    """Check that a checkpoint has every trainable weight of a backbone, and nothing of another model.

    Args:
        owner: the backbone, for the error.
        given: the checkpoint's keys of this backbone, without prefix.
        expected: the backbone's own state, parameters and buffers.
        frozen: names of the base, which may be absent as a whole.
        optional: names of buffers of the base, which may be absent one by one, because they are computed again.

    Raises:
        InputError: naming the keys that are missing, of another shape or unexpected.
    """
    has_frozen = any(name in given for name in frozen)
    missing = [name for name in expected if name not in given and name not in optional and (has_frozen or name not in frozen)]
    problems = describe_misfit(missing, find_wrong_shapes(given, expected),
                               [name for name in given if name not in expected and not is_ignorable(name)])
    if problems:
        raise InputError(f'the checkpoint does not fit {owner}: of its {len(expected)} weights {problems}. {REMEDY}')


def find_differences(given: Mapping[str, Any], present: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that have other values in ``given``, after rounding to the dtype that they have there."""
    return [
        name for name, value in present.items()
        if isinstance(given.get(name), Tensor) and not torch.equal(value.to(given[name].device, given[name].dtype), given[name])
    ]


def check_same_base(owner: str, base_checkpoint: str | None, given: Mapping[str, Any], present: Mapping[str, Tensor]) -> None:
    """Check that the part of the frozen base in a checkpoint equals what was loaded from ``base_checkpoint``.

    Raises:
        InputError: if they differ: the adapters of the checkpoint were trained on another base.
    """
    others = find_differences(given, present)
    if others:
        raise InputError(f'the checkpoint was trained on another base than {base_checkpoint!r}, which {owner} has loaded: '
                         f'{summarize_names(others)} of {len(present)} frozen weights differ. Set model.backbone.base_checkpoint '
                         'to the base of the checkpoint; nothing was loaded.')
