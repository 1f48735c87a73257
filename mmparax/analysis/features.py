"""Backbones of configs and checkpoints, the blocks in them, and the images that several of them look at."""
import difflib
import fnmatch
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmparax.backbones.adapted import AdaptedBackbone, adapted_backbones
from mmparax.checks.model import MAPS
from mmparax.config.files import check_checkpoint, load_config
from mmparax.config.query import model_config, sub_configs
from mmparax.errors import InputError, ParameterError, UserError
from mmparax.inference.predictions import build_and_load, loads_files, test_pipeline
from mmparax.weights.digest import digest
from mmparax.weights.matching import check_keys

# What residual units are called in the toolboxes; a container of several is none itself.
BLOCK_NAMES = re.compile(r'(Block|Bottleneck|Residual|Layer|LayerV\d)$')
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Source:
    """A model to look at: what to call it, its config file, and its checkpoint (None: what the config starts from)."""
    name: str
    config: str
    checkpoint: Optional[str] = None


@dataclass(frozen=True)
class Block:
    """A module whose output is looked at.

    Attributes:
        label: ``'3.2'`` for the second block of the third stage; the module's name if it is no block.
        name: of the module in the backbone.
        stage: from 1 on; 0 if it is in none.
        module: the module.
    """
    label: str
    name: str
    stage: int
    module: nn.Module


@dataclass
class FeatureExtractor:
    """The backbone of a model in evaluation mode, and what prepares images for it.

    Attributes:
        source: which model.
        weights: where its weights are from, in words.
        key: a digest of its weights and config.
        backbone: its parameters need no gradient.
        preprocessor: the model's ``data_preprocessor``.
        bgr: whether the config's pipeline gives BGR images.
    """
    source: Source
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
            bgr: the order of their channels.

        Returns:
            Tensor: (B, 3, S, S) on the model's device.
        """
        if bgr != self.bgr:
            crops = [crop.flip(0) for crop in crops]
        prepared = self.preprocessor(dict(inputs=list(crops), data_samples=None), False)['inputs']
        return prepared[..., :crops[0].shape[-2], :crops[0].shape[-1]]  # without padding, which is on the right and below


# ---- which models ----


def sources_of(arguments: Sequence[str], names: Optional[Sequence[str]] = None) -> List[Source]:
    """Read a list of configs, each followed by its checkpoints; a config without any stands for what it starts from.

    Args:
        arguments: files; those that end in ``.py`` are configs.
        names: what to call the models; by default the parts of their paths in which they differ.

    Raises:
        InputError: if a checkpoint comes before any config, a model is there twice, or ``names`` do not fit.
    """
    found: List[Tuple[str, Optional[str]]] = []
    config = None
    for argument in arguments:
        if argument.endswith('.py'):
            config = argument
            found.append((config, None))
        elif config is None:
            raise ParameterError('models', argument, 'a checkpoint stands behind its config, a file that ends in .py')
        elif found[-1] == (config, None):
            found[-1] = (config, argument)
        else:
            found.append((config, argument))
    for entry in found:
        if found.count(entry) > 1:
            raise ParameterError('models', entry[1] or entry[0], 'each model is given once')
    if names is None:
        names = _distinct(found)
    if len(names) != len(found) or len(set(names)) != len(names) or not all(names):
        raise ParameterError('--names', list(names), f'there are {len(found)} models, each of which needs a name of its own')
    return [Source(name, *entry) for name, entry in zip(names, found)]


def _distinct(models: Sequence[Tuple[str, Optional[str]]]) -> List[str]:
    """A name for each (config, checkpoint): of its path what the others have otherwise."""
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


def load_extractor(source: Source, cfg_options: Optional[Mapping[str, Any]] = None, seed: int = 0) -> FeatureExtractor:
    """Build the model of a config, load its checkpoint or what it starts from, and keep the backbone.

    The default scope becomes the config's.

    Args:
        source: which model.
        cfg_options: changes of the config, as on a command line.
        seed: of what is random where there is no checkpoint.

    Raises:
        UserError: if a file is missing, or the checkpoint is of another config.
    """
    cfg = read_config(source, cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    torch.manual_seed(seed)
    if source.checkpoint is None:
        model = revert_sync_batchnorm(MODELS.build(model_config(cfg)))
        weights = _start(model, cfg)
    else:
        check_checkpoint(source.checkpoint)
        model, content = build_and_load(cfg, source.checkpoint)
        _check_upstream(model, content)
        weights = f'the checkpoint {source.checkpoint}'
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        raise InputError(f'the model of {source.config!r}, {type(model).__name__}, has no backbone to look at.')
    model.eval()
    backbone.requires_grad_(False)
    for module in backbone.modules():  # a reentrant checkpoint gives no gradient of the input alone
        if getattr(module, 'with_cp', False):
            module.with_cp = False
    preprocessor = model.data_preprocessor
    if getattr(preprocessor, 'test_cfg', None):
        preprocessor.test_cfg = None  # mmsegmentation's padding of whole images
    key = digest([*backbone.state_dict().items(), *preprocessor.state_dict().items()]) + str(model_config(cfg))
    return FeatureExtractor(source, weights, key, backbone, preprocessor, _takes_bgr(cfg))


def read_config(source: Source, cfg_options: Optional[Mapping[str, Any]] = None) -> Config:
    """The config of a model with the changes of the command line."""
    return load_config(source.config, cfg_options)


def _takes_bgr(cfg: Config) -> bool:
    try:
        return loads_files(test_pipeline(cfg))
    except InputError:  # no pipeline: the toolboxes' own order
        return True


def _start(model: nn.Module, cfg: Config) -> str:
    """Initialise a model as training does; return in words what its backbone has then."""
    try:
        model.init_weights()
    except UserError:
        raise
    except Exception as error:  # whatever a download says
        raise InputError(f'the pre-trained weights that {cfg.filename!r} names could not be loaded '
                             f'({type(error).__name__}: {error}). Give a checkpoint behind the config.') from error
    adapted = adapted_backbones(model)
    for _, backbone in adapted:
        backbone.check_base()
    if adapted:
        backbone = adapted[0][1]
        if backbone.base_source == 'random':
            return 'random (allow_random_base=True)'
        adapters = '' if backbone.method is None else ', its adapters as they start'
        return f'the base {backbone.base_checkpoint}{adapters}; no checkpoint was given'
    pretrained = [part for path, part in sub_configs(model_config(cfg)) if path.startswith('backbone') or not path
                  if part.get('pretrained') or str(part.get('type')) == 'Pretrained']
    if pretrained:
        return f'{pretrained[0].get("pretrained") or pretrained[0].get("checkpoint")}; no checkpoint was given'
    return 'random: no checkpoint was given, and the config names no pre-trained weights'


def _check_upstream(model: nn.Module, content: Mapping[str, Any]) -> None:
    """Check that a checkpoint has the backbone of a model that is not mmparax's; mmengine loads what fits of it."""
    backbone = getattr(model, 'backbone', None)
    if backbone is None or isinstance(backbone, AdaptedBackbone):
        return
    weights = content.get('state_dict', content)
    given = {name.removeprefix('module.').removeprefix('backbone.'): value for name, value in weights.items()
             if name.removeprefix('module.').startswith('backbone.')}
    check_keys(type(backbone).__name__, given, backbone.state_dict(), (), [name for name, _ in backbone.named_buffers()])


def give_maps(backbone: nn.Module) -> None:
    """Let a backbone that averages its output for a classifier give the map itself."""
    for option, value in MAPS.items():
        if hasattr(backbone, option):
            setattr(backbone, option, value)


# ---- which blocks ----


def blocks_of(backbone: nn.Module) -> List[Block]:
    """The blocks of a backbone in their order, by stage.

    Those of mmparax know them; in others a block is what is called so (``...Block``, ``Bottleneck``, ``...Layer``,
    ``...Residual``), the outermost of them, and a stage is a list of blocks.
    """
    names = {module: name for name, module in backbone.named_modules()}
    if isinstance(backbone, AdaptedBackbone):
        stages: List[List[nn.Module]] = backbone.stage_blocks()
    else:
        by_list: Dict[str, List[nn.Module]] = {}
        for module in _outermost(backbone):
            by_list.setdefault(names[module].rpartition('.')[0], []).append(module)
        stages = list(by_list.values())
    return [Block(f'{stage}.{number}', names[module], stage, module)
            for stage, modules in enumerate(stages, 1) for number, module in enumerate(modules, 1)]


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if BLOCK_NAMES.search(type(child).__name__) and not isinstance(child, CONTAINERS):
            yield child
        else:
            yield from _outermost(child)


def chosen_blocks(backbone: nn.Module, patterns: Optional[Sequence[str]] = None) -> List[Block]:
    """The blocks that some patterns name, in the order of the backbone.

    Args:
        backbone: a backbone.
        patterns: labels (``3.2``) or names of modules (``stages.2.blocks.1``), with ``*``; a pattern that fits no block may
            fit other modules (``stages.2.blocks.*.attn``). None: all blocks.

    Raises:
        InputError: if a pattern fits nothing; it lists the blocks.
    """
    blocks = blocks_of(backbone)
    if not patterns:
        if not blocks:
            raise InputError(f'no blocks are known in {type(backbone).__name__}: name modules by --blocks, such as '
                                 f'{", ".join(name for name, _ in backbone.named_children())}.')
        return blocks
    inner = [Block(name, name, next((block.stage for block in blocks if name.startswith(block.name + '.')), 0), module)
             for name, module in backbone.named_modules() if name and name not in {block.name for block in blocks}]
    found: Dict[str, Block] = {}
    for pattern in patterns:
        fitting = [block for block in blocks if any(fnmatch.fnmatchcase(name, pattern) for name in (block.label, block.name))]
        fitting = fitting or [block for block in inner if fnmatch.fnmatchcase(block.name, pattern)]
        if not fitting:
            near = difflib.get_close_matches(pattern, [name for block in blocks for name in (block.label, block.name)], 1)
            listed = ', '.join(f'{block.label} ({block.name})' for block in blocks) or 'none that are known'
            raise ParameterError('--blocks', pattern, f'{type(backbone).__name__} has the blocks {listed}',
                            f'Did you mean {near[0]}?' if near else '')
        found.update({block.name: block for block in fitting})
    order = [name for name, _ in backbone.named_modules()]
    return sorted(found.values(), key=lambda block: order.index(block.name))


@contextmanager
def recorded(blocks: Sequence[Block], reduce: Callable[[Tensor], Tensor]) -> Iterator[Dict[str, Tensor]]:
    """While it is open, each block's output is reduced as soon as it is there: no more than one is in memory.

    Args:
        blocks: whose outputs.
        reduce: what to keep of an output; of a tuple the first tensor is meant.

    Yields:
        dict: name of a block -> what was kept of its last output.
    """
    kept: Dict[str, Tensor] = {}

    def hook(name: str) -> Callable[..., None]:

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            while isinstance(output, (tuple, list)) and output:
                output = output[0]
            if not isinstance(output, Tensor):
                raise InputError(f'the module {name} gives a {type(output).__name__}, not a tensor: choose others by '
                                     '--blocks.')
            kept[name] = reduce(output)

        return keep

    handles = [block.module.register_forward_hook(hook(block.name)) for block in blocks]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


# ---- command line ----


def checked_device(name: str) -> str:
    """The device of a name, ``'auto'`` for the best one of this machine.

    Raises:
        InputError: if this machine has no such device.
    """
    name = get_device() if name == 'auto' else name
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ParameterError('--device', name, f'torch has no such device here ({str(error).splitlines()[0]})',
                        'Use auto, cpu or cuda.') from error
    return name
