"""A base checkpoint, and configs with adapter files of tasks on it."""
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmparax
from helpers.cases import FEW_BLOCKS, build
from helpers.tasks import TASKS, backbone_config


def write_base(folder, backbone='swin', name='base.pth', seed=1):
    """Write a random base checkpoint; return its path."""
    torch.manual_seed(seed)
    torch.save(build('frozen', backbone, **FEW_BLOCKS[backbone]).state_dict(), folder / name)
    return folder / name


def write_task(folder, task, method, backbone='swin', base='base.pth', **options):
    """Write the config of a task and the adapter file of a model that differs from its start; return their paths."""
    make, scope, _, _ = TASKS[task]
    init_default_scope(scope)
    part = backbone_config(task, backbone, method, base_checkpoint=str(folder / base), **options)
    cfg = Config(dict(default_scope=scope, model=make(part)))
    config, adapter = folder / f'{task}_{method}.py', folder / f'{task}_{method}.safetensors'
    cfg.dump(config)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape)
    if part['adapter'] is None:
        adapter = adapter.with_suffix('.pth')
        torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=('a', 'b')))), adapter)
    else:
        mmparax.save_adapter(model, adapter, dataset_meta=dict(classes=('a', 'b')))
    return str(config), str(adapter)
