"""Says in one sentence which OpenMMLab package is missing or cannot be imported."""
import functools
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmparax.errors import MissingPackageError

DISTRIBUTIONS = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmpretrain': 'onedl-mmpretrain',
    'mmseg': 'onedl-mmsegmentation',
    'mmdet': 'onedl-mmdetection',
}


def is_installed(package: str) -> bool:
    """Whether the package of this import name is there; it is not imported."""
    return find_spec(package) is not None


def find_obstacle(module: str) -> str | None:
    """Why a module of a toolbox cannot be imported, or None; it is imported for that.

    A toolbox may be there and not work: mmcv-lite has no ``mmcv.ops``, which mmdet needs, and the toolboxes refuse some
    versions of mmcv by assertions. What needs another toolbox works all the same.
    """
    package = module.split('.')[0]
    return _try_import(module) if is_installed(package) else _describe_missing([package])


@functools.lru_cache(None)  # a second attempt would meet what the first one registered
def _try_import(module: str) -> str | None:
    try:
        import_module(module)
    except Exception as error:  # whatever it is, it is told to who asks for what needs the module
        lite = ' mmcv-lite has no compiled operators: install mmcv in its place.' if 'mmcv._ext' in str(error) else ''
        return f'mmparax needs {module} here, and that cannot be imported ({type(error).__name__}: {error}).{lite}'
    return None


def make_stand_in(name: str, module: str) -> type:
    """A class in the place of one that cannot be imported without ``module``: to build it is an error that says why not."""

    def refuse(self: Any, *args: Any, **options: Any) -> None:
        raise MissingPackageError(find_obstacle(module))

    return type(name, (), {'__init__': refuse, '__doc__': f'Needs {module}.'})


def require(*packages: str) -> None:
    """Raise MissingPackageError naming those of ``packages`` (import names) that are not installed."""
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        raise MissingPackageError(_describe_missing(missing))


def _describe_missing(packages: list[str]) -> str:
    return (f'mmparax needs the package {", ".join(packages)}, which is not installed: run '
            f'`pip install {" ".join(DISTRIBUTIONS[name] for name in packages)}`, or install the original '
            'OpenMMLab package of that import name; requirements.txt has the tested versions.')
