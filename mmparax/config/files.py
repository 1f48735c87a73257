"""Reads config files."""
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmparax.config.sections import check_sections
from mmparax.errors import InputError, MissingFileError, ParameterError


def load_config(path: str, cfg_options: Mapping[str, Any] | None = None, work_dir: str | None = None, launcher: str = 'none',
                local_rank: int = 0) -> Config:
    """Read a config file.

    Args:
        path: the file.
        cfg_options: changes of it: values by dotted names, such as ``{'model.backbone.adapter.hidden_dim': 64}``.
        work_dir: folder for logs and checkpoints; by default that of the config, else ``work_dirs/NAME_OF_THE_FILE``.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
        local_rank: of this process on its machine, if no variable of the environment says it.

    Raises:
        MissingFileError: if the file does not exist.
        InputError: if it cannot be read.
        ParameterError: for a part of another type than a run reads; for a top-level ``adapter`` that the model does not have,
            or options of one: they have no effect.
    """
    given = os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK') if launcher == 'mpi' else None
    os.environ.setdefault('LOCAL_RANK', given or str(local_rank))
    if not Path(path).is_file():
        raise MissingFileError(f'the config {path!r} does not exist; the shipped ones are below configs/.')
    try:
        cfg = Config.fromfile(path)
        if cfg_options is not None:
            _check_adapter_options(cfg, cfg_options)
            cfg.merge_from_dict(cfg_options)
    except (AttributeError, FileNotFoundError, IndexError, KeyError, TypeError, SyntaxError) as error:
        raise InputError(f'the config {path!r} could not be read ({type(error).__name__}: {error}). Two base '
                         'configs that set the same name, or a dict that replaces None or another type, need _delete_=True.') \
            from error
    check_sections(cfg)
    _check_adapter(cfg)
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(path).stem)
    return cfg


def _get_adapted_backbone(cfg: Config) -> Mapping[str, Any]:
    """The config of the model's backbone if it is one of mmparax, else an empty one."""
    model = cfg.get('model')
    backbone = model.get('backbone') if isinstance(model, Mapping) else None
    return backbone if isinstance(backbone, Mapping) and str(backbone.get('type')).startswith('mmparax.') else {}


def _check_adapter_options(cfg: Config, cfg_options: Mapping[str, Any]) -> None:
    """Refuse options of a top-level ``adapter`` where the model's own is meant: the model was made when the file was read."""
    for name, value in cfg_options.items():
        if name.split('.')[0] == 'adapter' and _get_adapted_backbone(cfg):
            raise ParameterError(name, value, 'at the top level of a config it has no effect', f'Use model.backbone.{name}.')


def _check_adapter(cfg: Config) -> None:
    """Refuse a top-level ``adapter`` beside a backbone of mmparax that has another one."""
    backbone, adapter = _get_adapted_backbone(cfg), cfg.get('adapter')
    if backbone and isinstance(adapter, Mapping) and backbone.get('adapter') != adapter:
        raise ParameterError(
            'adapter', dict(adapter), 'at the top level of a config it has no effect, and the model has '
            f'model.backbone.adapter={backbone.get("adapter")!r}', 'Use model.backbone.adapter.')


def check_checkpoint(path: str) -> None:
    """Raise MissingFileError if a local checkpoint does not exist."""
    if '://' not in path and not os.path.isfile(path):
        raise MissingFileError(f'the checkpoint {path!r} does not exist.')
