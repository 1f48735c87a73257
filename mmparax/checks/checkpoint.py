"""Whether a checkpoint fits a run: complete enough to resume from, made by this method on this base."""
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmparax.backbones.adapted import find_adapted_backbones
from mmparax.backbones.base_weights import BaseSource
from mmparax.backbones.roles import Role
from mmparax.checkpoint.compatibility import check_head, check_method, describe_missing_head, keep_fitting_head, split_names
from mmparax.checkpoint.fingerprint import check_fingerprint
from mmparax.checkpoint.mmengine_loading import FRESH_HEAD
from mmparax.errors import InputError
from mmparax.utils.names import make_prefix, strip_prefix
from mmparax.utils.text import summarize_names
from mmparax.weights.adapter_file import VerifiedDescription, get_description
from mmparax.weights.claims import CLAIM


def check_resumable(checkpoint: Mapping[str, Any], source: str) -> None:
    """Check that a file has all that mmengine needs to go on from it.

    Args:
        checkpoint: content of the file.
        source: its path, for the errors.

    Raises:
        InputError: naming what is absent.
    """
    meta = checkpoint.get('meta')
    if get_description(checkpoint):
        raise InputError(f'{source!r} is a published adapter, not a file to resume from: use load_from to start a new run '
                         'from its weights, or resume from an iter_* or epoch_* file.')
    absent = [name for name in ('optimizer', 'message_hub') if name not in checkpoint]
    absent += [f'meta.{name}' for name in ('epoch', 'iter') if not isinstance(meta, Mapping) or name not in meta]
    if absent:
        raise InputError(f'{source!r} is not a file to resume from: it has no {", ".join(absent)} (best_* and published '
                         'files have none). Use load_from to start a new run from its weights, or resume from an iter_* '
                         'or epoch_* file.')


def check_origin(model: nn.Module, checkpoint: Mapping[str, Any], source: str, training: bool) -> None:
    """Check by a checkpoint's metadata and keys that it was made by this method on this base.

    The weights themselves are judged by the backbone when they are loaded.

    Args:
        model: the model that it will be loaded into.
        checkpoint: content of the file.
        source: its path, for the errors.
        training: whether a run starts from it; otherwise the head must fit completely, too.

    Raises:
        InputError: naming the difference.
    """
    if not isinstance(checkpoint, Mapping):
        raise InputError(f'{source!r} holds a {type(checkpoint).__name__} and no weights by name.')
    weights = checkpoint.get('state_dict', checkpoint)
    weights = {name.removeprefix('module.'): value for name, value in weights.items()}
    described = (checkpoint.get('meta') or {}).get('mmparax') or {}
    for name, backbone in find_adapted_backbones(model):
        check_method(name, backbone, (described.get('backbones') or {}).get(name), repr(source))
        given = {key for key, value in strip_prefix(weights, make_prefix(name)).items() if isinstance(value, Tensor)}
        trainable = [key for key, role in backbone.parameter_roles().items() if role is not Role.BASE]
        if not given.intersection(trainable) and (trainable or not given and not described):
            raise InputError(
                f'{source!r} holds none of the trainable parameters of {type(backbone).__name__}: it looks like a base '
                'checkpoint. ' + ('Set model.backbone.base_checkpoint to it, and load_from=None.' if training else
                                  'Give a checkpoint of a training run, such as iter_*.pth of its work dir; a base checkpoint '
                                  'belongs to model.backbone.base_checkpoint.'))
    if all(backbone.base_source is BaseSource.FILE for _, backbone in find_adapted_backbones(model)):
        check_fingerprint(model, described, repr(source))
    if not training:
        if described.get('head_included') is False and split_names(model, model.state_dict())[1]:
            raise InputError(describe_missing_head(model, repr(source)))
        check_head(model, weights, repr(source))


def let_head_start_fresh(model: nn.Module, checkpoint: dict[str, Any], source: str) -> str | None:
    """Let a training that starts from an adapter file begin with another head than the file's.

    Args:
        model: what will be trained.
        checkpoint: content of the file; what does not fit the head is removed from it.
        source: its path, for the sentence.

    Returns:
        What starts fresh, as a sentence; None if the file is no adapter file, or fits completely.
    """
    if not get_description(checkpoint):
        return None
    weights = checkpoint['state_dict']
    weights._metadata[CLAIM] = VerifiedDescription(weights._metadata[CLAIM], **{FRESH_HEAD: True})
    taken, fresh = keep_fitting_head(model, weights)
    if not fresh:
        return None
    return f'{source!r} gives the adapter and {len(taken)} tensors of the head; the others start fresh: {summarize_names(fresh)}.'
