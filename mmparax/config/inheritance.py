"""Bases of configs: ``mmparax::`` and ``mmseg::`` resolve, and an adapter of another method does not keep the old options.

mmengine is imported in the functions alone: :func:`install` runs right behind its first import, whoever makes it.
"""
import functools
from collections.abc import Mapping
from typing import Any

from mmparax.errors import ParameterError
from mmparax.utils.toolboxes import DISTRIBUTIONS


def install() -> None:
    """Make mmengine read such bases, once."""
    from mmengine.config.utils import MODULE2PACKAGE

    if 'mmparax' in MODULE2PACKAGE:
        return
    MODULE2PACKAGE['mmparax'] = 'mmparax'
    name_installed_toolboxes()
    _replace('_get_cfg_path', _drop_scope)
    _replace('_merge_a_into_b', _check_methods)


def name_installed_toolboxes() -> None:
    """Let ``mmseg::`` and the like mean the package of this import name where the distribution that mmengine asks for is not
    there: OneDL's is called onedl-mmsegmentation. With OpenMMLab's own nothing changes."""
    from mmengine.config.utils import MODULE2PACKAGE
    from mmengine.utils import is_installed

    for name in DISTRIBUTIONS:
        if name in MODULE2PACKAGE and not is_installed(MODULE2PACKAGE[name]) and is_installed(name):
            MODULE2PACKAGE[name] = name


def _replace(name: str, make: Any) -> None:
    """Replace a static method of mmengine's Config by ``make(the original)``."""
    from mmengine.config import Config

    original = getattr(Config, name)
    setattr(Config, name, staticmethod(functools.wraps(original)(make(original))))


def _drop_scope(original: Any) -> Any:

    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = original(cfg_path, filename)
        # With a scope, mmengine looks for all that a base names among the parts of that package. A config of mmparax has
        # parts of several toolboxes and names its own in full: like one beside the user's file, it needs none.
        return path, None if scope == 'mmparax' else scope

    return get_cfg_path


def _check_methods(original: Any) -> Any:

    def merge_a_into_b(a: dict, b: dict, allow_list_keys: bool = False) -> dict:
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            check_method_change(a.get('adapter'), b.get('adapter'))
        return original(a, b, allow_list_keys)

    return merge_a_into_b


def check_method_change(adapter: Any, inherited: Any) -> None:
    """Check that an adapter that is merged into one of another method keeps none of its options.

    Two methods may have an option of the same name, such as ``hidden_dim``, with which the new one would be built silently.

    Args:
        adapter: what a config or the command line says.
        inherited: the adapter that it is merged into.

    Raises:
        ParameterError: naming the options that would be kept.
    """
    if not isinstance(adapter, Mapping) or not isinstance(inherited, Mapping) or adapter.get('_delete_'):
        return
    (new, is_own), (old, was_own) = (_name_method(config.get('type')) for config in (adapter, inherited))
    kept = {name: value for name, value in inherited.items() if name != 'type' and name not in adapter}
    if (is_own or was_own) and new and old and new != old and kept:
        options = ', '.join(f'{name}={value!r}' for name, value in kept.items())
        raise ParameterError(
            'adapter.type', adapter['type'], f'the config that it changes has the adapter {old}, whose {options} would be kept',
            f'Write adapter=dict(_delete_=True, type={adapter["type"]!r}), or add model.backbone.adapter._delete_=True to '
            '--cfg-options.')


def _name_method(kind: Any) -> tuple[str, bool]:
    """Name of the type of an adapter, '' if it has none, and whether it says that it is one of mmparax."""
    if isinstance(kind, type):
        return kind.__name__, kind.__module__.startswith('mmparax.')
    if not isinstance(kind, str):
        return '', False
    return (kind[len('mmparax.'):], True) if kind.startswith('mmparax.') else (kind, False)
