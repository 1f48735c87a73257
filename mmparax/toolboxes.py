"""Says in one sentence which OpenMMLab package is missing; imports nothing else."""
from importlib.util import find_spec

DISTRIBUTIONS = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmpretrain': 'onedl-mmpretrain',
    'mmseg': 'onedl-mmsegmentation',
    'mmdet': 'onedl-mmdetection',
}


def require(*packages: str) -> None:
    """Raise ImportError naming those of ``packages`` (import names) that are not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ImportError(f'mmparax needs the package {", ".join(missing)}, which is not installed: run '
                          f'`pip install {" ".join(DISTRIBUTIONS[name] for name in missing)}`, or install the original '
                          'OpenMMLab package of that import name; requirements.txt has the tested versions.')
