"""Puts mmparax's reading and matching of checkpoints in the place of mmengine's (:mod:`mmparax.checkpoint.mmengine_loading`).

It runs right behind the first import of mmengine, which may be amid the import of any module of mmparax: so it imports none of
them, and what it installs does so when it is called.
"""
from collections.abc import Callable
from importlib import import_module
from typing import Any

IMPLEMENTATION = 'mmparax.checkpoint.mmengine_loading'
SHIPPED = 'mmparax://'  # files of the package
STORAGES = ('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')  # patterns of mmengine's loaders

originals: dict[str, Callable[..., Any]] = {}  # of mmengine, by name


def install() -> None:
    """Replace mmengine's loaders; calling it again changes nothing."""
    from mmengine.runner import checkpoint
    from mmengine.runner.checkpoint import CheckpointLoader

    originals.setdefault('load_state_dict', checkpoint.load_state_dict)
    checkpoint.load_state_dict = _call('load_state_dict')
    CheckpointLoader.register_scheme(('', SHIPPED), _call('load_from_local'), force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), _call('load_from_http'), force=True)
    # torchvision://, open-mmlab:// and mmcls:// look this name up and call it; s3:// and pavi:// the next one.
    checkpoint.load_from_http = _call('load_from_http')
    if hasattr(checkpoint, '_safe_torch_load'):
        checkpoint._safe_torch_load = _call('load_stream')
    else:  # other versions of mmengine call torch.load from inside
        CheckpointLoader.register_scheme(STORAGES, _call('load_from_storage'), force=True)


def _call(name: str) -> Callable[..., Any]:
    """A function of the implementation, which is imported when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(IMPLEMENTATION), name)(*args, **kwargs)

    call.__name__ = name  # mmengine logs the part behind "load_from_"
    return call
