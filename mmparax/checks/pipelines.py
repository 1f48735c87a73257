"""Asks the transforms of a built data set how they read images and masks."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmparax.checks.images import Loader


@dataclass(frozen=True)
class MaskLoading:
    """How a pipeline reads masks.

    Attributes:
        loader: reads the file as it is, before any cast.
        reduce_zero_label: whether 0 becomes ignored and all others are counted down by one.
    """
    loader: Loader
    reduce_zero_label: bool


def walk_transforms(pipeline: Any) -> Iterator[Any]:
    """Yield every transform of a pipeline, those inside others too."""
    transforms = getattr(pipeline, 'transforms', pipeline)
    for transform in transforms if isinstance(transforms, (list, tuple)) else [transforms]:
        if isinstance(transform, (list, tuple)):
            yield from walk_transforms(transform)
        elif transform is not None:
            yield transform
            if hasattr(transform, 'transforms'):
                yield from walk_transforms(transform)


def find_image_loader(dataset: Any) -> Loader | None:
    """How the pipeline of a data set reads images; None if it reads them in a way of its own, or not from local files."""
    transform = _find_image_transform(dataset)
    if transform is None or getattr(transform, 'backend_args', None) or getattr(transform, 'file_client_args', None):
        return None
    return Loader(transform.color_type, transform.imdecode_backend)


def leaves_out_unreadable(dataset: Any) -> bool:
    """Whether the pipeline of a data set takes another image in the place of one that it cannot read."""
    skips = getattr(_find_image_transform(dataset), 'ignore_empty', False)
    return bool(skips) and not getattr(dataset, 'test_mode', False)


def _find_image_transform(dataset: Any) -> Any:
    for transform in walk_transforms(getattr(dataset, 'pipeline', ())):
        method = getattr(type(transform), 'transform', None)
        if getattr(method, '__qualname__', '') == 'LoadImageFromFile.transform' and hasattr(transform, 'color_type'):
            return transform
    return None


def find_mask_loading(dataset: Any) -> MaskLoading | None:
    """How the pipeline of a data set reads masks of class numbers; None if it reads none, or in a way of its own."""
    for transform in walk_transforms(getattr(dataset, 'pipeline', ())):
        method = getattr(type(transform), '_load_seg_map', None)
        if method is None or not getattr(transform, 'with_seg', True):
            continue
        owner = method.__qualname__.split('.')[0]
        if owner != 'LoadAnnotations' or getattr(transform, 'backend_args', None):
            return None
        reduced = getattr(transform, 'reduce_zero_label', None)
        reduced = getattr(dataset, 'reduce_zero_label', False) if reduced is None else reduced
        return MaskLoading(Loader('unchanged', transform.imdecode_backend), bool(reduced))
    return None
