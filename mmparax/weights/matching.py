"""Compares named tensors of a file with those of a model, before anything is copied; knows no model."""
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmparax.errors import InputError
from mmparax.utils.text import summarize_names

# Parts of published files that a backbone does not take: classifiers, the final norm (output norms start fresh), buffers
# that are computed again, and what only pre-training needs.
IGNORED_PREFIXES = ('head.', 'head_dist.', 'norm.', 'fc_norm.', 'decoder_', 'neck.')
IGNORED_NAMES = ('attn_mask', 'relative_position_index', 'mask_token')
ALLOW_NONFINITE = 'MMPARAX_ALLOW_NONFINITE'  # an environment variable: 1 lets files with NaN be loaded
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
    problems = describe_misfit(missing, find_wrong_shapes(weights, parameters), unexpected, find_unusable(weights, parameters))
    if problems:
        layout, remedy = explain(missing, unexpected)
        remedy = remedy or 'give the file of this arch (arch, window_size, patch_size), or change the arch'
        raise InputError(
            f'base_checkpoint={source!r} does not fit {owner}: {f"it is {layout}. " if layout else ""}'
            f'{"Of" if layout else "of"} {len(parameters)} weights {problems}. {remedy[0].upper()}{remedy[1:]}; nothing '
            'was loaded.')
    check_finite(weights, parameters, f'base_checkpoint={source!r}')
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


def find_unusable(given: Mapping[str, Any], expected: Mapping[str, Tensor]) -> list[str]:
    """Return the names of ``given`` that hold no values that could be copied, each with what it holds.

    Usable is a dense tensor of values: floating point of at least 16 bits where floating point is expected, integers or
    truth values where those are.
    """
    found = []
    for name, value in expected.items():
        kind = _find_unusable_kind(given[name], value) if name in given else None
        if kind:
            found.append(f'{name} ({kind})')
    return found


def _find_unusable_kind(value: Any, expected: Tensor) -> str | None:
    if not isinstance(value, Tensor):
        return f'a {type(value).__name__}'
    if value.is_quantized or value.layout is not torch.strided:
        return 'quantised' if value.is_quantized else 'sparse'
    if value.is_meta and not expected.is_meta:
        return 'without values'
    same_kind = value.is_complex() == expected.is_complex() and value.is_floating_point() == expected.is_floating_point() \
        and (value.dtype == torch.bool) == (expected.dtype == torch.bool)
    if not same_kind or value.is_floating_point() and value.itemsize < 2:
        return str(value.dtype).removeprefix('torch.')
    return None


def find_nonfinite(given: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Return those of some names under which ``given`` holds infinite values or NaN."""
    return [
        name for name in names if isinstance(given.get(name), Tensor) and given[name].is_floating_point()
        and not given[name].is_meta and not torch.isfinite(given[name]).all()
    ]


def check_finite(given: Mapping[str, Any], names: Iterable[str], source: str, allowed: bool | None = None) -> None:
    """Check that tensors hold finite values.

    Args:
        given: name -> tensor.
        names: of those to check.
        source: what to call the file.
        allowed: whether others are allowed; by default what the variable ``MMPARAX_ALLOW_NONFINITE`` says.

    Raises:
        InputError: naming the first tensors with other values.
    """
    if os.environ.get(ALLOW_NONFINITE) == '1' if allowed is None else allowed:
        return
    found = find_nonfinite(given, names)
    if found:
        raise InputError(f'{source} holds infinite values or NaN in {summarize_names(found)}: its training failed, or it is '
                         f'damaged. Take an earlier checkpoint; to look at it all the same, set {ALLOW_NONFINITE}=1 or '
                         'allow_nonfinite=True. Nothing was loaded.')


def find_wrong_shapes(given: Mapping[str, Any], expected: Mapping[str, Tensor]) -> list[str]:
    """Return the names of ``given`` that have another shape than expected, with both shapes."""
    return [
        f'{name} {tuple(given[name].shape)} instead of {tuple(value.shape)}' for name, value in expected.items()
        if isinstance(given.get(name), Tensor) and given[name].shape != value.shape
    ]


def describe_misfit(missing: Sequence[str], wrong: Sequence[str], unexpected: Sequence[str], unusable: Sequence[str] = ()) -> str:
    """Return what does not fit as a clause with counts and the first names; empty if all does."""
    labels = {'missing': missing, 'of another shape': wrong, 'unexpected': unexpected, 'that hold no usable values': unusable}
    return '; '.join(f'{summarize_names(names)} {label}' for label, names in labels.items() if names)


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
                               [name for name in given if name not in expected and not is_ignorable(name)],
                               find_unusable(given, expected))
    if problems:
        raise InputError(f'the checkpoint does not fit {owner}: of its {len(expected)} weights {problems}. {REMEDY}')
    check_finite(given, expected, 'the checkpoint')


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
