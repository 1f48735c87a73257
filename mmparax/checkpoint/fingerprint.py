"""Tells the frozen bases of a model from others, and what a checkpoint says about them."""
import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmparax.backbones.adapted import find_adapted_backbones
from mmparax.errors import InputError
from mmparax.version import __version__
from mmparax.weights.claims import ORIGINS, check_claimed_fingerprint, name_conversions


def fingerprint(model: nn.Module, described: Mapping[str, Mapping[str, str]] | None = None) -> str | None:
    """Return the SHA-256 of the frozen base of ``model`` (:meth:`mmparax.backbones.base_weights.BaseWeights.fingerprint`).

    Every file layout of one base, a bare backbone and a whole model agree, whatever size of images and whatever method they
    are for. A model with several adapted backbones has the digest over theirs.

    Args:
        model: an adapted backbone, or anything that holds one.
        described: from :func:`describe_frozen`, if it is known.

    Returns:
        64 hexadecimal digits, or None if nothing of the backbone is frozen (full fine-tuning).

    Raises:
        InputError: if ``model`` holds no backbone of mmparax.
        RandomBaseError: if its base has not been loaded yet.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f'fingerprint needs a model, not {model!r}; that of the base of a checkpoint file is its '
                         "['meta']['mmparax']['fingerprint'].")
    backbones = find_adapted_backbones(model)
    if not backbones:
        raise InputError(f'{type(model).__name__} holds no backbone of mmparax, so it has no frozen base to identify.')
    digests = [
        digest for digest in (backbone.fingerprint((described or {}).get(name)) for name, backbone in backbones)
        if digest is not None
    ]
    if len(digests) > 1:
        return hashlib.sha256(''.join(digests).encode()).hexdigest()
    return digests[0] if digests else None


def describe_frozen(model: nn.Module) -> dict[str, dict[str, str]]:
    """Describe the frozen parameters of each adapted backbone of a model as they are now: their digests by name."""
    return {name: backbone.describe_frozen() for name, backbone in find_adapted_backbones(model)}


def to_plain_config(config: Any) -> Any:
    """Return a config as plain data: types by name, tuples as lists."""
    if isinstance(config, Mapping):
        return {str(key): to_plain_config(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain_config(value) for value in config]
    return getattr(config, '__name__', config)


def describe(model: nn.Module) -> dict[str, Any]:
    """Describe the adapted backbones of a model for a checkpoint's metadata, in plain data.

    ``fingerprint`` is None under full fine-tuning; each backbone has ``type``, ``family``, ``options`` (all that upstream's
    class takes, defaults included), ``adapter`` (the method's options, defaults included, or None) and ``base_checkpoint``,
    and if the model has not all of the base as its file gives it, the digests of those tensors.

    Raises:
        RandomBaseError: if a frozen base has not been loaded yet.
    """
    backbones = {
        name: dict(type=type(backbone).__name__, family=backbone.family, options=to_plain_config(backbone.upstream_options),
                   adapter=backbone.method and to_plain_config(backbone.method.config), base_checkpoint=backbone.base_checkpoint)
        for name, backbone in find_adapted_backbones(model)
    }
    for name, backbone in find_adapted_backbones(model):
        if backbone.origins:
            backbones[name][ORIGINS] = {key: list(texts) for key, texts in backbone.origins.items()}
    return dict(version=__version__, fingerprint=fingerprint(model), backbones=backbones)


def add_description(checkpoint: dict[str, Any], model: nn.Module) -> None:
    """Write :func:`describe` into a checkpoint's metadata, unless it is there or ``model`` has no adapted backbone."""
    if 'mmparax' not in checkpoint['meta'] and find_adapted_backbones(model):
        checkpoint['meta']['mmparax'] = describe(model)


def find_conversions(model: nn.Module) -> str | None:
    """Return the dtypes that frozen weights were converted to (``model.half()``), or None if all are float32 as loaded."""
    return name_conversions(_frozen_values(model))


def check_fingerprint(model: nn.Module, claim: Mapping[str, Any], source: str) -> None:
    """Check that a checkpoint was made on the base that ``model`` has loaded.

    Args:
        model: a model whose base is loaded.
        claim: what :func:`describe` wrote into the checkpoint.
        source: what to call the checkpoint.

    Raises:
        InputError: with both fingerprints.
    """
    check_claimed_fingerprint(claim, fingerprint(model), _frozen_values(model), source, type(model).__name__)


def _frozen_values(model: nn.Module) -> list[Tensor]:
    return [value for _, backbone in find_adapted_backbones(model) for value in backbone.frozen_parameters().values()]
