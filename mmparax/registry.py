"""Child registries, so that ``type='mmparax.X'`` resolves from every OpenMMLab toolbox without ``custom_imports``.

mmengine imports this module by its name when it meets the scope ``mmparax`` and hides errors raised here: keep it
free of imports that can fail. The modules in ``locations`` are imported at the first look-up, errors included.
"""
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmparax', locations=['mmparax.adapters', 'mmparax.backbones'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmparax', locations=['mmparax.hooks'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmparax',
                    locations=['mmparax.datasets.svhn', 'mmparax.datasets.class_folders'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry('optimizer wrapper constructor', parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
                                      scope='mmparax', locations=['mmparax.optim'])
