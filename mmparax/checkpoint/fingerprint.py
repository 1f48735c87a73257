"""Tells one frozen base from another, and what a checkpoint says about itself."""
import hashlib
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

import torch
from torch import Tensor, nn

from mmparax.backbones.adapted import BASE, AdaptedBackbone, adapted_backbones
from mmparax.errors import InputError, RandomBaseError
from mmparax.version import __version__
from mmparax.weights.digest import digest


def frozen_parameters(backbone: AdaptedBackbone) -> Iterator[Tuple[str, Tensor]]:
    """(name, parameter) of the frozen base; nothing under full fine-tuning."""
    if backbone.method is None:
        return
    roles = backbone.parameter_roles()
    for name, parameter in backbone.named_parameters():
        if roles[name] == BASE:
            yield name, parameter.detach()


def fingerprint(model: nn.Module) -> Optional[str]:
    """Return the SHA-256 of the frozen base of ``model``: names, shapes, dtypes and bytes, in the order of the names.

    Names are those after key conversion and relative to the backbone, so every file layout of one base, a bare backbone
    and a whole model agree. Recomputed buffers, adapters and output norms are not in it. A model with several adapted
    backbones has the digest over theirs.

    Args:
        model: an adapted backbone, or anything that holds one.

    Returns:
        64 hexadecimal digits, or None if nothing of the backbone is frozen (full fine-tuning).

    Raises:
        InputError: if ``model`` holds no backbone of mmparax.
        RandomBaseError: if its base has not been loaded yet.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f'fingerprint needs a model, not {model!r}; that of the base of a checkpoint file is its '
                             "['meta']['mmparax']['fingerprint'].")
    backbones = adapted_backbones(model)
    if not backbones:
        raise InputError(f'{type(model).__name__} holds no backbone of mmparax, so it has no frozen base to identify.')
    digests = [_digest(backbone) for _, backbone in backbones if backbone.method is not None]
    if len(digests) > 1:
        return hashlib.sha256(''.join(digests).encode()).hexdigest()
    return digests[0] if digests else None


def _digest(backbone: AdaptedBackbone) -> str:
    if backbone.base_source is None:
        raise RandomBaseError(f'{type(backbone).__name__} has no base to identify yet: '
                              f'base_checkpoint={backbone.base_checkpoint!r} has not been loaded.')
    backbone.check_unmerged('be identified by its base')
    return digest(frozen_parameters(backbone))


def plain(config: Any) -> Any:
    """A config as plain data: types by name, tuples as lists."""
    if isinstance(config, Mapping):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(value) for value in config]
    return getattr(config, '__name__', config)


def describe(model: nn.Module) -> Dict[str, Any]:
    """What a checkpoint's metadata says of the adapted backbones of a model; plain data.

    ``fingerprint`` is None under full fine-tuning; each backbone has ``type``, ``family``, ``options`` (all that upstream's
    class takes, defaults included), ``adapter`` (the method's options, defaults included, or None) and ``base_checkpoint``.
    """
    backbones = {name: dict(type=type(backbone).__name__, family=backbone.family, options=plain(backbone.upstream_options),
                            adapter=backbone.method and plain(backbone.method.config),
                            base_checkpoint=backbone.base_checkpoint)
                 for name, backbone in adapted_backbones(model)}
    return dict(version=__version__, fingerprint=fingerprint(model), backbones=backbones)


def stamp(checkpoint: Dict[str, Any], model: nn.Module) -> None:
    """Write :func:`describe` into a checkpoint's metadata, unless it is there or ``model`` has no adapted backbone."""
    if 'mmparax' not in checkpoint['meta'] and adapted_backbones(model):
        checkpoint['meta']['mmparax'] = describe(model)


def converted(model: nn.Module) -> Optional[str]:
    """Names of the dtypes that frozen weights were converted to (``model.half()``), or None: they are as they were loaded."""
    dtypes = {value.dtype for _, backbone in adapted_backbones(model) for _, value in frozen_parameters(backbone)}
    return ', '.join(sorted(str(dtype)[len('torch.'):] for dtype in dtypes - {torch.float32})) or None


def check_fingerprint(model: nn.Module, described: Mapping[str, Any], source: str) -> None:
    """Check that a checkpoint was made on the base that ``model`` has loaded.

    Args:
        model: a model whose base is loaded.
        described: what :func:`describe` wrote into the checkpoint.
        source: what to call the checkpoint.

    Raises:
        InputError: with both fingerprints.
    """
    theirs, ours = described.get('fingerprint'), fingerprint(model)
    if theirs and ours and theirs != ours:
        bases = ', '.join(repr(entry.get('base_checkpoint')) for entry in (described.get('backbones') or {}).values())
        if converted(model):
            raise InputError(f'{source} cannot be compared with the base of {type(model).__name__}, whose frozen weights '
                                 f'are {converted(model)} now, not float32 as they were loaded: load it first, then convert the '
                                 'model (.half() or .to(dtype)).')
        raise InputError(f'{source} was trained on another base: its fingerprint is {theirs[:12]}… ({bases}), that of '
                             f'the loaded base {ours[:12]}…. Set model.backbone.base_checkpoint to the base that it was '
                             'trained on.')
