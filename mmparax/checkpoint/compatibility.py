"""Checks that a checkpoint or adapter file was made by a model's method, with its backbone, head and base; copies nothing."""
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmparax.backbones.adapted import AdaptedBackbone, find_adapted_backbones
from mmparax.backbones.base_weights import BaseSource
from mmparax.backbones.options import find_archs
from mmparax.checkpoint.contents import collect_frozen_names
from mmparax.checkpoint.fingerprint import check_fingerprint, find_conversions, fingerprint, to_plain_config
from mmparax.errors import InputError, RandomBaseError
from mmparax.utils.names import make_prefix
from mmparax.weights.claims import name_bases
from mmparax.weights.matching import check_finite, describe_misfit, find_unusable, find_wrong_shapes

# Options of upstream's classes that do not change the outputs of given weights in evaluation.
IRRELEVANT_OPTIONS = ('drop_rate', 'drop_path_rate', 'attn_drop_rate', 'with_cp', 'init_cfg', 'pretrained', 'frozen_stages',
                      'norm_eval', 'img_size', 'layer_scale_init_value', 'use_checkpoint')
OWN_CONFIG = 'Use the config that it was trained with.'


def split_names(model: nn.Module, names: Any) -> tuple[list[str], list[str]]:
    """Split names of a model's state into those of its adapted backbones and the others: the head."""
    prefixes = tuple(make_prefix(name) for name, _ in find_adapted_backbones(model))
    own = [name for name in names if name.startswith(prefixes)]
    return own, [name for name in names if not name.startswith(prefixes)]


def check_method(name: str, backbone: AdaptedBackbone, described: Mapping[str, Any] | None, source: str) -> None:
    """Check that a backbone has the method that ``described``, an entry of ``describe(model)['backbones']``, names.

    How parameters start (``*_init``) does not matter, nor do options that only one side knows.

    Raises:
        InputError: with the types, or the options that differ.
    """
    if described is None:
        return
    theirs, ours = described.get('adapter'), backbone.method and to_plain_config(backbone.method.config)
    kinds = [config['type'] if config else None for config in (theirs, ours)]
    if kinds[0] != kinds[1]:
        raise InputError(f'{source} was trained with the adapter {kinds[0] or "None (full fine-tuning)"}, but '
                         f'{name or "the backbone"} has {kinds[1] or "None (full fine-tuning)"}. {OWN_CONFIG}')
    differences = _describe_differences(theirs or {}, ours or {})
    if differences:
        raise InputError(f'{source} was trained with other options of {kinds[0]}: {differences}. {OWN_CONFIG}')


def _describe_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    return ', '.join(f'{key}={theirs[key]!r} instead of {ours[key]!r}' for key in sorted(set(theirs) & set(ours))
                     if not key.endswith('_init') and key not in IRRELEVANT_OPTIONS and theirs[key] != ours[key])


def normalize_options(backbone: AdaptedBackbone, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in one form, however they were written: an arch as its numbers."""
    plain: dict[str, Any] = to_plain_config(options)
    if isinstance(plain.get('arch'), str):
        plain['arch'] = to_plain_config(find_archs(backbone.upstream).get(plain['arch'], plain['arch']))
    return plain


def check_backbone(name: str, backbone: AdaptedBackbone, described: Mapping[str, Any], source: str) -> None:
    """Check that a backbone is the one of ``described``: its family, and the options that change outputs.

    Raises:
        InputError: with what differs.
    """
    if described['family'] != backbone.family:
        raise InputError(f'{source} belongs to a {described["family"]}, but {name or "the model"} is a {backbone.family}. '
                         f'{OWN_CONFIG}')
    differences = _describe_differences(normalize_options(backbone, described['options']),
                                        normalize_options(backbone, backbone.upstream_options))
    if differences:
        raise InputError(f'{source} was trained with other options of {described["type"]}: {differences}. {OWN_CONFIG}')


def check_head(model: nn.Module, weights: Mapping[str, Any], source: str) -> None:
    """Check that a checkpoint has every weight outside the backbones, and no more.

    Raises:
        InputError: naming what is missing, of another shape or unexpected.
    """
    state = model.state_dict()
    expected = {name: state[name] for name in split_names(model, state)[1]}
    given = {
        name: weights[name] for name in split_names(model, weights)[1] if not name.startswith(('data_preprocessor.', 'ema_'))
    }
    problems = describe_misfit(
        missing=[
            name for name in expected
            if name not in given and 'num_batches_tracked' not in name and not name.startswith('data_preprocessor.')
        ], wrong=find_wrong_shapes(given, expected), unexpected=[name for name in given if name not in expected],
        unusable=find_unusable(given, expected))
    if problems:
        raise InputError(f'{source} does not fit the head of {type(model).__name__}: {problems}. Use the config that it was '
                         'trained with (same head and number of classes).')
    check_finite(given, expected, source)


def check_adapter(model: nn.Module, about: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str,
                  head: str = 'as in the file', allow_nonfinite: bool | None = None) -> None:
    """Check that an adapter file fits a model completely; only the base is loaded if that has not happened.

    Args:
        model: what it will be loaded into.
        about: the file's description.
        tensors: its tensors, under the model's names.
        source: what to call the file.
        head: 'required'; 'as in the file': whole, or absent if it was saved without; 'any part': what there is must fit.
        allow_nonfinite: take infinite values and NaN; by default what the variable ``MMPARAX_ALLOW_NONFINITE`` says.

    Raises:
        InputError: naming what does not fit.
        RandomBaseError: if the model has no base.
    """
    backbones = dict(find_adapted_backbones(model))
    if sorted(about['backbones']) != sorted(backbones):
        raise InputError(f'{source} belongs to a model whose backbones of mmparax are {sorted(about["backbones"])}, and '
                         f'those of {type(model).__name__} are {sorted(backbones)}. {OWN_CONFIG}')
    for name, backbone in backbones.items():
        check_method(name, backbone, about['backbones'][name], source)
        check_backbone(name, backbone, about['backbones'][name], source)
    state = model.state_dict()
    own, outside = split_names(model, state)
    if head == 'required' and outside and not about['head_included']:
        raise InputError(describe_missing_head(model, source))
    frozen = collect_frozen_names(model)
    allowed = {name: state[name] for name in [*own, *outside] if name not in frozen}
    optional = set(outside) if head == 'any part' or not about['head_included'] else set()
    problems = describe_misfit(missing=[name for name in allowed if name not in tensors and name not in optional],
                               wrong=find_wrong_shapes(tensors,
                                                       allowed), unexpected=[name for name in tensors if name not in allowed],
                               unusable=find_unusable(tensors, allowed))
    if problems:
        raise InputError(f'{source} does not fit {type(model).__name__}: of {len(tensors)} tensors {problems}. {OWN_CONFIG}')
    check_finite(tensors, allowed, source, allow_nonfinite)
    check_base(model, about, source)


def keep_fitting_head(model: nn.Module, weights: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Remove what does not fit the head of ``model`` from weights from which a training starts.

    Returns:
        Names of the head's tensors that stay, and of those that start fresh.
    """
    state = model.state_dict()
    for name in split_names(model, weights)[1]:
        if name not in state or state[name].shape != weights[name].shape:
            del weights[name]
    head = split_names(model, state)[1]
    return [name for name in head if name in weights], [name for name in head if name not in weights]


def describe_missing_head(model: nn.Module, source: str) -> str:
    """Return the sentence for a file without head where the model's own would be random."""
    return (f'{source} was saved without a head, and that of {type(model).__name__} would be random. Give a file that was saved '
            'with include_head=True; mmparax.load_adapter(model, path) loads it beside a head of your own, and load_from starts '
            'a training from it.')


def check_base(model: nn.Module, described: Mapping[str, Any], source: str) -> None:
    """Check that a model has the base that a file without the frozen base was trained on; load it if it is at hand.

    Raises:
        MissingFileError: if its file is not there.
        InputError: if it is another base, or the file does not say on which one it was trained.
        RandomBaseError: if the model has no base.
    """
    for _, backbone in find_adapted_backbones(model):
        if backbone.base_source is None and backbone.base_checkpoint is not None:
            backbone.load_base()
        if backbone.base_source is None:
            raise RandomBaseError(f'{source} holds no frozen base, and {type(backbone).__name__} has no base_checkpoint: its '
                                  'base would be random. Set model.backbone.base_checkpoint to '
                                  f'{name_bases(described) or "the base"}, on which it was trained.')
    if not described.get('fingerprint'):
        raise InputError(f'{source} holds no frozen base and does not say on which one it was trained (it has no '
                         'meta.mmparax.fingerprint): give a file that mmparax wrote.')
    if any(backbone.base_source is BaseSource.RANDOM for _, backbone in find_adapted_backbones(model)) and \
            not find_conversions(model) and fingerprint(model) != described['fingerprint']:
        raise InputError(f'{source} was trained on {name_bases(described) or "another base"}, and the base of '
                         f'{type(model).__name__} is random (allow_random_base=True). Set model.backbone.base_checkpoint to '
                         'that base.')
    check_fingerprint(model, described, source)
