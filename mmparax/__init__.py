"""mmparax: parameter-efficient fine-tuning of frozen vision backbones for OpenMMLab.

The names in ``__all__`` are imported at first use: mmengine imports this package for its registries and hides errors that
happen meanwhile. The package itself imports without torch and the OpenMMLab packages; a name that needs one of them says
which.
"""
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmparax.utils.imports import run_after_import
from mmparax.utils.toolboxes import require
from mmparax.version import __version__

if TYPE_CHECKING:
    from mmparax.adapters.adaptformer import AdaptFormer
    from mmparax.adapters.adaroute import AdaRoute
    from mmparax.adapters.base import BlockInfo, Method
    from mmparax.adapters.bitfit import BitFit
    from mmparax.adapters.frozen import Frozen
    from mmparax.adapters.lora import LoRA
    from mmparax.adapters.lorand import LoRand
    from mmparax.adapters.mona import Mona
    from mmparax.adapters.norm_tuning import NormTuning
    from mmparax.adapters.vpt import VPT
    from mmparax.backbones.convnext import AdaptedConvNeXt, AdaRouteConvNeXt
    from mmparax.backbones.mit import AdaptedMiT, AdaRouteMiT
    from mmparax.backbones.parameters import ParameterCount, count_parameters
    from mmparax.backbones.swin import AdaptedSwin, AdaRouteSwin
    from mmparax.backbones.vit import AdaptedViT, AdaRouteViT
    from mmparax.checkpoint.adapter_io import load_adapter, save_adapter
    from mmparax.checkpoint.fingerprint import fingerprint
    from mmparax.datasets.class_folders import ClassFolders
    from mmparax.datasets.svhn import SVHN
    from mmparax.deploy.bank import AdapterBank
    from mmparax.deploy.merging import merge_adapter, unmerge_adapter
    from mmparax.errors import (
        DataError,
        InputError,
        MissingFileError,
        ParameterError,
        RandomBaseError,
        StorageError,
        TrainingError,
        UpstreamChangedError,
        UserError,
    )
    from mmparax.hooks.checkpoint_hook import CheckpointHook
    from mmparax.hooks.ema_hook import EMAHook
    from mmparax.hooks.peft_hook import PEFTHook
    from mmparax.hooks.routing_hook import RoutingHook
    from mmparax.optim import OptimWrapperConstructor

__all__ = [
    'AdaRoute', 'AdaRouteConvNeXt', 'AdaRouteMiT', 'AdaRouteSwin', 'AdaRouteViT', 'AdaptFormer', 'AdaptedConvNeXt', 'AdaptedMiT',
    'AdaptedSwin', 'AdaptedViT', 'AdapterBank', 'BitFit', 'BlockInfo', 'CheckpointHook', 'ClassFolders', 'DataError', 'EMAHook',
    'Frozen', 'InputError', 'LoRA', 'LoRand', 'Method', 'MissingFileError', 'Mona', 'NormTuning', 'OptimWrapperConstructor',
    'PEFTHook', 'ParameterCount', 'ParameterError', 'RandomBaseError', 'RoutingHook', 'SVHN', 'StorageError', 'TrainingError',
    'UpstreamChangedError', 'UserError', 'VPT', '__version__', 'count_parameters', 'fingerprint', 'load_adapter', 'merge_adapter',
    'save_adapter', 'unmerge_adapter'
]

_ERRORS = 'mmparax.errors'  # the only names that need no other package
_NAMES = {
    'mmparax.adapters': [
        'AdaRoute', 'AdaptFormer', 'BitFit', 'BlockInfo', 'Frozen', 'LoRA', 'LoRand', 'Method', 'Mona', 'NormTuning', 'VPT'
    ],
    'mmparax.backbones': [
        'AdaRouteConvNeXt', 'AdaRouteMiT', 'AdaRouteSwin', 'AdaRouteViT', 'AdaptedConvNeXt', 'AdaptedMiT', 'AdaptedSwin',
        'AdaptedViT'
    ],
    'mmparax.backbones.parameters': ['ParameterCount', 'count_parameters'],
    'mmparax.checkpoint.adapter_io': ['load_adapter', 'save_adapter'],
    'mmparax.checkpoint.fingerprint': ['fingerprint'],
    'mmparax.datasets.class_folders': ['ClassFolders'],
    'mmparax.datasets.svhn': ['SVHN'],
    'mmparax.deploy.bank': ['AdapterBank'],
    'mmparax.deploy.merging': ['merge_adapter', 'unmerge_adapter'],
    _ERRORS: [
        'DataError', 'InputError', 'MissingFileError', 'ParameterError', 'RandomBaseError', 'StorageError', 'TrainingError',
        'UpstreamChangedError', 'UserError'
    ],
    'mmparax.hooks': ['CheckpointHook', 'EMAHook', 'PEFTHook', 'RoutingHook'],
    'mmparax.optim': ['OptimWrapperConstructor'],
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def _extend_mmengine() -> None:
    # mmengine resolves ``mmparax::config``.
    import_module('mmparax.config.inheritance').install()
    # From here on no checkpoint that any toolbox loads can run code.
    import_module('mmparax.checkpoint.installation').install()


run_after_import('mmengine', _extend_mmengine)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if _MODULES[name] != _ERRORS:
        require('mmengine')
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
