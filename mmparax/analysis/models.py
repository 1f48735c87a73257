"""The models that are analysed: their configs and checkpoints, and their backbones in evaluation mode."""
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmparax.backbones.adapted import AdaptedBackbone, find_adapted_backbones
from mmparax.backbones.base_weights import BaseSource
from mmparax.checks.features import MAPS
from mmparax.config.files import check_checkpoint, load_config
from mmparax.config.query import get_model_config, walk_configs
from mmparax.errors import InputError, ParameterError, UserError
from mmparax.inference.predictions import build_and_load, get_test_pipeline, loads_files
from mmparax.weights.digest import compute_digest
from mmparax.weights.matching import check_keys


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: its name, its config file, and its checkpoint (None: the state in which training starts)."""
    name: str
    config: str
    checkpoint: str | None = None


@dataclass
class FeatureExtractor:
    """The backbone of a model in evaluation mode, and what prepares images for it.

    Attributes:
        source: where the model comes from.
        weights: where its weights come from, in words.
        key: a digest of its weights and config.
        backbone: all its parameters have ``requires_grad=False``.
        preprocessor: the model's ``data_preprocessor``.
        bgr: whether the config's pipeline gives BGR images.
    """
    source: ModelSource
    weights: str
    key: str
    backbone: nn.Module
    preprocessor: nn.Module
    bgr: bool

    def to(self, device: str) -> 'FeatureExtractor':
        self.backbone.to(device)
        self.preprocessor.to(device)
        return self

    def prepare(self, crops: Sequence[Tensor], bgr: bool) -> Tensor:
        """Normalise crops as the model does.

        Args:
            crops: (3, S, S) each, values as in an image file.
            bgr: whether their channels are in BGR order.

        Returns:
            Tensor: (B, 3, S, S) on the model's device.
        """
        if bgr != self.bgr:
            crops = [crop.flip(0) for crop in crops]
        prepared = self.preprocessor(dict(inputs=list(crops), data_samples=None), False)['inputs']
        return prepared[..., :crops[0].shape[-2], :crops[0].shape[-1]]  # without padding, which is on the right and below


def parse_sources(arguments: Sequence[str], names: Sequence[str] | None = None) -> list[ModelSource]:
    """Read a list of configs, each followed by its checkpoints; a config alone stands for the state in which training starts.

    Args:
        arguments: files; those that end in ``.py`` are configs.
        names: what to call the models; by default the parts of their paths in which they differ.

    Raises:
        ParameterError: if a checkpoint comes before any config, a model is there twice, or ``names`` do not fit.
    """
    models: list[tuple[str, str | None]] = []
    config = None
    for argument in arguments:
        if argument.endswith('.py'):
            config = argument
            models.append((config, None))
        elif config is None:
            raise ParameterError('models', argument, 'a checkpoint stands behind its config, a file that ends in .py')
        elif models[-1] == (config, None):
            models[-1] = (config, argument)
        else:
            models.append((config, argument))
    for model in models:
        if models.count(model) > 1:
            raise ParameterError('models', model[1] or model[0], 'each model is given once')
    if names is None:
        names = _make_names(models)
    if len(names) != len(models) or len(set(names)) != len(names) or not all(names):
        raise ParameterError('names', list(names), f'there are {len(models)} models, each of which needs a name of its own')
    return [ModelSource(name, *model) for name, model in zip(names, models)]


def _make_names(models: Sequence[tuple[str, str | None]]) -> list[str]:
    """Name each (config, checkpoint) by the part of its path that tells it from the others."""
    paths = [os.path.splitext(checkpoint or config)[0].split(os.sep) for config, checkpoint in models]
    if len(models) == 1:
        return [Path(models[0][0]).stem]
    while len({path[0] for path in paths}) == 1 and min(map(len, paths)) > 1:
        paths = [path[1:] for path in paths]
    while len({path[-1] for path in paths}) == 1 and min(map(len, paths)) > 1:
        paths = [path[:-1] for path in paths]
    names = [path[0] if len({other[0] for other in paths}) == len(paths) else '/'.join(path) for path in paths]
    names = [name + ('' if checkpoint else ' (start)') for name, (_, checkpoint) in zip(names, models)]
    if len(set(names)) < len(names):  # one file with several configs
        names = [f'{Path(config).stem}: {name}' for (config, _), name in zip(models, names)]
    return names


def load_extractor(source: ModelSource, cfg_options: Mapping[str, Any] | None = None, seed: int = 0) -> FeatureExtractor:
    """Build the model of a config, load its checkpoint or what training starts from, and take its backbone.

    The default scope becomes the config's.

    Args:
        source: where the model comes from.
        cfg_options: changes of the config, by dotted names.
        seed: of what is random where there is no checkpoint.

    Raises:
        UserError: if a file is missing, or the checkpoint belongs to another config.
    """
    cfg = load_config(source.config, cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    torch.manual_seed(seed)
    if source.checkpoint is None:
        model = revert_sync_batchnorm(MODELS.build(get_model_config(cfg)))
        weights = _init_weights(model, cfg)
    else:
        check_checkpoint(source.checkpoint)
        model, content = build_and_load(cfg, source.checkpoint)
        _check_upstream_backbone(model, content)
        weights = f'the checkpoint {source.checkpoint}'
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        raise InputError(f'the model of {source.config!r}, {type(model).__name__}, has no backbone to analyse.')
    model.eval()
    backbone.requires_grad_(False)
    for module in backbone.modules():  # reentrant activation checkpointing gives no gradient of the input alone
        if getattr(module, 'with_cp', False):
            module.with_cp = False
    preprocessor = model.data_preprocessor
    if getattr(preprocessor, 'test_cfg', None):
        preprocessor.test_cfg = None  # mmsegmentation's padding of whole images
    key = compute_digest([*backbone.state_dict().items(), *preprocessor.state_dict().items()]) + str(get_model_config(cfg))
    return FeatureExtractor(source, weights, key, backbone, preprocessor, _gives_bgr(cfg))


def _gives_bgr(cfg: Config) -> bool:
    try:
        return loads_files(get_test_pipeline(cfg))
    except InputError:  # no pipeline: the toolboxes' own order
        return True


def _init_weights(model: nn.Module, cfg: Config) -> str:
    """Initialise a model as training does; return in words what its backbone has then."""
    try:
        model.init_weights()
    except UserError:
        raise
    except Exception as error:  # a download may raise anything
        raise InputError(f'the pre-trained weights that {cfg.filename!r} names could not be loaded '
                         f'({type(error).__name__}: {error}). Give a checkpoint behind the config.') from error
    adapted = find_adapted_backbones(model)
    for _, backbone in adapted:
        backbone.check_base()
    if adapted:
        backbone = adapted[0][1]
        if backbone.base_source is BaseSource.RANDOM:
            return 'random (allow_random_base=True)'
        adapters = '' if backbone.method is None else ', its adapters as they start'
        return f'the base {backbone.base_checkpoint}{adapters}; no checkpoint was given'
    pretrained = [
        part for path, part in walk_configs(get_model_config(cfg)) if path.startswith('backbone') or not path
        if part.get('pretrained') or str(part.get('type')) == 'Pretrained'
    ]
    if pretrained:
        return f'{pretrained[0].get("pretrained") or pretrained[0].get("checkpoint")}; no checkpoint was given'
    return 'random: no checkpoint was given, and the config names no pre-trained weights'


def _check_upstream_backbone(model: nn.Module, content: Mapping[str, Any]) -> None:
    """Check that a checkpoint fits a backbone that is not mmparax's: mmengine loads the keys that fit and only warns."""
    backbone = getattr(model, 'backbone', None)
    if backbone is None or isinstance(backbone, AdaptedBackbone):
        return
    weights = content.get('state_dict', content)
    given = {
        name.removeprefix('module.').removeprefix('backbone.'): value for name, value in weights.items()
        if name.removeprefix('module.').startswith('backbone.')
    }
    check_keys(type(backbone).__name__, given, backbone.state_dict(), (), [name for name, _ in backbone.named_buffers()])


def set_map_output(backbone: nn.Module) -> None:
    """Let a backbone that averages its output for a classifier give the map itself."""
    for option, value in MAPS.items():
        if hasattr(backbone, option):
            setattr(backbone, option, value)
