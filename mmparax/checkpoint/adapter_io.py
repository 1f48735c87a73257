"""Saves the trained weights of a model as one small file, and loads them onto the base that they were trained on."""
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmparax.backbones.adapted import find_adapted_backbones
from mmparax.backbones.base_weights import BaseSource
from mmparax.checkpoint.compatibility import check_adapter, split_names
from mmparax.checkpoint.contents import collect_frozen_names
from mmparax.checkpoint.fingerprint import describe, find_conversions
from mmparax.errors import InputError, ParameterError, check_choice, check_number
from mmparax.utils.choices import FILE_DTYPES
from mmparax.utils.modules import unwrap_model
from mmparax.utils.names import add_prefix, make_prefix, strip_prefix
from mmparax.weights.adapter_file import AdapterFile, has_valid_classes, read_adapter, to_plain_json, to_tuples, write_adapter
from mmparax.weights.claims import ORIGINS
from mmparax.weights.sources import SHIPPED, is_url


def save_adapter(model: nn.Module, path: str | Path, include_head: bool = True, dtype: str | None = None,
                 metric: Mapping[str, float] | None = None, cfg: Mapping[str, Any] | None = None,
                 dataset_meta: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the trained weights of ``model`` to one safetensors file: adapters, output norms, tuned parts of the base, the head.

    Of the frozen base it has the fingerprint and the name. The file is written whole or not at all, holds no pickle, and is
    the same for the same model.

    Args:
        model: an adapted backbone or a whole model around one; its base is loaded.
        path: ends in ``.safetensors``.
        include_head: save everything outside the backbone, too: parameters and buffers.
        dtype: of the floating point tensors in the file: 'float32', 'float16' (half the size) or 'bfloat16'; None: the
            model's own.
        metric: results of these weights, such as ``dict(mIoU=50.3)``, if there are any.
        cfg: config of the run or of the model, whose head goes into the description; None: ``model.cfg``, which
            ``init_model`` and ``init_detector`` set, if there is one.
        dataset_meta: names and colours of the classes (``dict(classes=..., palette=...)``); None: those that the model
            carries (``model.dataset_meta``), if any.

    Returns:
        The description that was written (docs/adapter_files.md).

    Raises:
        InputError: for a wrong argument, a model without a backbone of mmparax, or full fine-tuning (no base is frozen).
        RandomBaseError: if the base has not been loaded.
        StorageError: if the file cannot be written.
    """
    model = unwrap_model(model)
    backbones = find_adapted_backbones(model)
    if not backbones:
        raise InputError(f'{type(model).__name__} holds no backbone of mmparax, so there is no adapter to save.')
    full = [name for name, backbone in backbones if backbone.method is None]
    if full:
        raise InputError(f'{full[0] or type(model).__name__} has adapter=None: everything is trainable and there is no '
                         'adapter to save. Keep the checkpoint of the run, which holds the whole model.')
    if dtype is not None:
        check_choice('dtype', dtype, FILE_DTYPES)
    conversions = find_conversions(model)
    if conversions:
        raise InputError(f'the frozen weights of {type(model).__name__} are {conversions}, not float32 as they were '
                         'loaded: the file would fit no base. Save before model.half() or model.to(dtype); a small file '
                         "is made by dtype='float16'.")
    metric, dataset_meta = _check_metric(metric), _find_dataset_meta(model, dataset_meta)
    state = model.state_dict()
    own, head = split_names(model, state)
    frozen = collect_frozen_names(model)
    names = [name for name in own if name not in frozen] + (head if include_head else [])
    tensors = {name: _convert(name, state[name], dtype) for name in names}
    description = describe(model)
    for entry in description['backbones'].values():
        entry['base_checkpoint'] = drop_folders(entry['base_checkpoint'])
        entry.pop(ORIGINS, None)  # they serve files that hold a base
    if any(backbone.base_source is BaseSource.RANDOM for _, backbone in backbones):
        print_log(f'{str(path)!r} belongs to a random base (allow_random_base=True): no other model can load it.',
                  logger='current', level=logging.WARNING)
    floats = {str(value.dtype)[len('torch.'):] for value in tensors.values() if value.is_floating_point()}
    about = dict(description, model=type(model).__name__, head_included=bool(include_head and head),
                 head=_find_head_config(model, cfg) if include_head and head else None, dtype='/'.join(sorted(floats)) or None,
                 dataset_meta=dataset_meta if include_head else None, metric=metric)
    return write_adapter(path, tensors, about)


def load_adapter(model: nn.Module, path: str | Path, include_head: bool | None = None,
                 allow_nonfinite: bool | None = None) -> dict[str, Any]:
    """Load a file of :func:`save_adapter` into ``model``: all of it, or nothing if anything does not fit.

    Checked before anything is copied: the file is whole; method, its options and the backbone are the model's; the base
    that is loaded is the one it was trained on (it is loaded now if that has not happened); every name and shape. Files in
    half precision load into models in single precision. A file of a bare backbone fits a whole model and the other way
    round if no head is loaded.

    Args:
        model: an adapted backbone or a whole model around one.
        path: the file.
        include_head: False: load only what belongs to the backbone and leave the head as it is; True: the file must have
            a head; None: load the head if the file has one, else leave the model's as it is.
        allow_nonfinite: take a file with infinite values or NaN; by default what the variable ``MMPARAX_ALLOW_NONFINITE`` says.

    Returns:
        The file's description (docs/adapter_files.md) and, under ``loaded``, the names of the tensors that were loaded. With
        a head, ``model.dataset_meta`` gets the names and colours of its classes.

    Raises:
        MissingFileError: if the file does not exist.
        InputError: naming what does not fit; the model is as it was.
        RandomBaseError: if the model has no base.
    """
    model = unwrap_model(model)
    file = read_adapter(path)
    tensors, about = select_tensors(model, file, include_head, str(path))
    check_adapter(model, about, tensors, f'the adapter file {str(path)!r}', allow_nonfinite=allow_nonfinite)
    copy_tensors(model, tensors)
    if about['head_included'] and about['dataset_meta']:
        model.dataset_meta = to_tuples(about['dataset_meta'])
    _, head = split_names(model, model.state_dict())
    what = 'adapter and head' if about['head_included'] else 'adapter; the head is as it was' if head else 'adapter'
    print_log(f'Loaded {len(tensors)} tensors from {str(path)!r}: {what}.', logger='current')
    return dict(about, loaded=sorted(tensors))


def select_tensors(model: nn.Module, file: AdapterFile, include_head: bool | None,
                   source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file by the names that they have in ``model``, and its description with the same names.

    Args:
        model: what it is for.
        file: what was read.
        include_head: as in :func:`load_adapter`.
        source: the file's name, for the errors.

    Raises:
        InputError: if the file lacks a head that ``include_head`` asks for, or has one that ``model`` has no place for.
    """
    about, tensors = dict(file.about), dict(file.tensors)
    if include_head and not about['head_included']:
        raise InputError(f'include_head=True, but {source!r} was saved without a head. Save it with include_head=True, or '
                         'load it with include_head=None and train the head.')
    theirs, ours = list(about['backbones']), [name for name, _ in find_adapted_backbones(model)]
    if ours == [''] and about['head_included'] and include_head is not False:
        raise InputError(f'{source!r} was saved with a head, and {type(model).__name__} is a backbone alone. Load it with '
                         'include_head=False.')
    if include_head is False and about['head_included']:
        prefixes = tuple(make_prefix(name) for name in about['backbones'])
        tensors = {name: value for name, value in tensors.items() if name.startswith(prefixes)}
        about.update(head_included=False, dataset_meta=None, head=None)
    if len(theirs) == len(ours) == 1 and theirs != ours and not about['head_included']:
        tensors = add_prefix(strip_prefix(tensors, make_prefix(theirs[0])), make_prefix(ours[0]))
        about['backbones'] = {ours[0]: about['backbones'][theirs[0]]}
    return tensors, about


@torch.no_grad()
def copy_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors by name into the parameters and buffers of a model, in place, in the model's precision."""
    state = model.state_dict()
    for name, value in tensors.items():
        state[name].copy_(value)


def drop_folders(source: str | None) -> str | None:
    """Return the address of a base checkpoint, or the name of a local file, whose folders are not for a published file."""
    return source if source is None or is_url(source) or source.startswith(SHIPPED) else Path(source).name


def _convert(name: str, value: Tensor, dtype: str | None) -> Tensor:
    if dtype is None or not value.is_floating_point():
        return value
    result = value.to(getattr(torch, dtype))
    if not torch.equal(result.isfinite(), value.isfinite()):
        raise InputError(f'dtype={dtype!r} has no room for the values of {name} (up to {value.abs().max().item():.3g}). Use '
                         "dtype='bfloat16', or None.")
    return result


def _find_head_config(model: nn.Module, cfg: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the model's config without its backbones, or None if it is not known."""
    cfg = cfg if cfg is not None else getattr(model, 'cfg', None) or getattr(model, '_config', None)
    if not isinstance(cfg, Mapping) and not hasattr(cfg, 'to_dict'):
        return None
    cfg = cfg.get('model', cfg)
    parts = {name.split('.')[0] for name, _ in find_adapted_backbones(model)}
    return to_plain_json({name: value for name, value in cfg.items() if name not in parts})


def _find_dataset_meta(model: nn.Module, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    found = given or getattr(model, 'dataset_meta', None) or getattr(model, '_dataset_meta', None)
    found = to_plain_json(found) if found else None
    if found is not None and not (isinstance(found, dict) and has_valid_classes(found)):
        raise ParameterError('dataset_meta', found, 'it is a dict, whose classes are a list of texts',
                             "Use dataset_meta=dict(classes=('road', 'car'), palette=[[0, 0, 0], [255, 0, 0]]).")
    return found


def _check_metric(metric: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Return names and values as texts and numbers; a tensor or array of one element is a number, too."""
    if metric is None:
        return None
    if not isinstance(metric, Mapping):
        raise ParameterError('metric', metric, 'it is a dict of numbers by name', 'Use metric=dict(mIoU=50.3), for example.')
    if any(not str(name).strip() for name in metric):
        raise ParameterError('metric', dict(metric), 'a result has a name', 'Use metric=dict(mIoU=50.3), for example.')
    return {
        str(name): check_number(
            f'metric[{name!r}]',
            value.item() if isinstance(value, (Tensor, np.ndarray)) and math.prod(value.shape) == 1 else value)
        for name, value in metric.items()
    }
