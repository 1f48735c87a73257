"""mmparax: frozen vision backbones with small trained adapters for OpenMMLab."""
from importlib import import_module

from mmparax.utils.toolboxes import require
from mmparax.version import __version__

require('mmengine')
# mmengine resolves ``mmparax::config``.
import_module('mmparax.config.inheritance').install()

# From here on no checkpoint that any toolbox loads can run code.
import_module('mmparax.checkpoint.mmengine_loading').install()

# Imported at first use: mmengine imports this package for its registries and hides errors that happen meanwhile.
_LAZY = {
    'AdapterBank': 'mmparax.deploy.bank',
    'ParameterCount': 'mmparax.backbones.parameters',
    'count_parameters': 'mmparax.backbones.parameters',
    'fingerprint': 'mmparax.checkpoint.fingerprint',
    'load_adapter': 'mmparax.checkpoint.adapter_io',
    'merge_adapter': 'mmparax.deploy.merging',
    'save_adapter': 'mmparax.checkpoint.adapter_io',
    'unmerge_adapter': 'mmparax.deploy.merging',
}

__all__ = ['AdapterBank', 'ParameterCount', '__version__', 'count_parameters', 'fingerprint', 'load_adapter', 'merge_adapter',
           'save_adapter', 'unmerge_adapter']


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_LAZY[name]), name)
