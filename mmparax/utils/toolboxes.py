"""Says in one sentence which OpenMMLab package is missing; imports nothing else."""
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


def make_stand_in(name: str, *packages: str) -> type:
    """A class in the place of one that cannot be imported without ``packages``: to build it is an error that names them."""

    def refuse(self: Any, *args: Any, **options: Any) -> None:
        require(*packages)

    return type(name, (), {'__init__': refuse, '__doc__': f'Needs {", ".join(packages)}.'})


def require(*packages: str) -> None:
    """Raise MissingPackageError naming those of ``packages`` (import names) that are not installed."""
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        raise MissingPackageError(f'mmparax needs the package {", ".join(missing)}, which is not installed: run '
                                  f'`pip install {" ".join(DISTRIBUTIONS[name] for name in missing)}`, or install the original '
                                  'OpenMMLab package of that import name; requirements.txt has the tested versions.')
