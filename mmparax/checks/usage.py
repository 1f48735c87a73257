"""What a data set of detection makes of its annotation file, as far as its config says."""
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.registry import DATASETS

from mmparax.config.query import find_class, find_metrics, get_metainfo, list_dataset_paths, walk_configs, walk_transforms

# What mmcv decodes without looking at the EXIF tag.
UNTURNED_FLAGS = ('unchanged', 'color_ignore_orientation', 'grayscale_ignore_orientation')
UNTURNED_BACKENDS = ('turbojpeg', 'tifffile')


@dataclass(frozen=True)
class Usage:
    """How a data set reads its files.

    Attributes:
        place: where the data set is in the config, such as ``'train_dataloader.dataset'``.
        classes: names of the classes, or None for whatever the file has.
        metainfo: these and what else the config says of them.
        paths: file or folder of each parameter, such as ``{'ann_file': ..., 'data_prefix.img': ...}``.
        local: whether the images are files of this machine.
        evaluated: whether a metric reads the annotations.
        needs_annotations: whether there must be any.
        needs_masks: whether every box needs a mask.
        reads_rle: whether masks as run-length codes can be used.
        filter_empty: whether images without annotations are left out.
        min_size: images with a smaller side are left out.
        bbox_min_size: Pascal VOC's boxes with a smaller side are ignored.
        filters_boxes: whether the pipeline leaves empty boxes out.
        indices: mmengine's: the first images (last if negative), or these; None means all.
        turns: whether images are loaded as their EXIF tags say.
    """
    place: str = 'dataset'
    classes: tuple[str, ...] | None = None
    metainfo: Mapping[str, Any] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    local: bool = True
    evaluated: bool = True
    needs_annotations: bool = True
    needs_masks: bool = False
    reads_rle: bool = True
    filter_empty: bool = False
    min_size: float = 0
    bbox_min_size: float = 0
    filters_boxes: bool = False
    indices: int | Sequence[int] | None = None
    turns: bool = True

    def select(self, kept: np.ndarray) -> np.ndarray:
        """Apply ``indices``.

        Args:
            kept: (N,) positions of the images that the filter keeps.
        """
        if self.indices is None:
            return kept
        if isinstance(self.indices, int):
            return kept[:self.indices] if self.indices >= 0 else kept[self.indices:]
        return kept[[index for index in self.indices if -len(kept) <= index < len(kept)]]

    def describe_filter(self) -> str:
        """The options that leave images out, as one writes them."""
        options = [f'min_size={self.min_size:g}'] * bool(self.min_size) + ['filter_empty_gt=True'] * self.filter_empty
        return f'{self.place}.filter_cfg=dict({", ".join(options)})'


def read_usage(cfg: Mapping[str, Any], place: str, dataset: Mapping[str, Any]) -> Usage:
    """Read what a data set's config says.

    Args:
        cfg: the config that it is in.
        place: where it is there.
        dataset: its own config.
    """
    metainfo = get_metainfo(cfg, dataset)
    classes = metainfo.get('classes')
    evaluated = place.startswith(('val', 'test'))
    evaluator = place.split('.')[0].replace('dataloader', 'evaluator')
    metrics = [metric for _, metric in find_metrics(cfg, evaluator)] if evaluated else []
    transforms = list(_find_transforms(dataset))
    loaders = [step for kind, step in transforms if kind == 'LoadAnnotations' and step.get('with_mask')]
    filtering = {} if dataset.get('test_mode') else dataset.get('filter_cfg') or {}
    return Usage(
        place=place, classes=None if classes is None or isinstance(classes, str) else tuple(classes), metainfo=metainfo,
        paths=dict(list_dataset_paths(dataset)), local=not dataset.get('backend_args')
        and '://' not in str(dataset.get('data_root')), evaluated=evaluated,
        needs_annotations=not (metrics and all(metric.get('format_only') for metric in metrics))
        and not any(kind == 'LoadEmptyAnnotations'
                    for kind, _ in transforms), needs_masks=bool(loaders) or any('segm' in _list_metrics(metric)
                                                                                 for metric in metrics)
        or (not evaluated and any(part.get('mask_head') for _, part in walk_configs(cfg.get('model')))), reads_rle=all(
            step.get('poly2mask', True) for step in loaders), filter_empty=bool(filtering.get('filter_empty_gt', False)),
        min_size=filtering.get('min_size') or 0, bbox_min_size=filtering.get('bbox_min_size') or 0,
        filters_boxes=any(kind == 'FilterAnnotations' for kind, _ in transforms), indices=dataset.get('indices'),
        turns=not any(kind == 'LoadImageFromFile' and
                      (step.get('color_type') in UNTURNED_FLAGS or step.get('imdecode_backend') in UNTURNED_BACKENDS)
                      for kind, step in transforms))


def get_method_name(cfg: Mapping[str, Any], dataset: Mapping[str, Any], method: str) -> str:
    """The class that a method of a data set is defined in, with the method's name, or ''; toolboxes need not be imported."""
    return getattr(getattr(find_class(DATASETS, dataset, cfg), method, None), '__qualname__', '')


def _find_transforms(dataset: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name without its scope, config) of every transform of a pipeline, those inside others too."""
    for step in walk_transforms(dataset.get('pipeline')):
        kind = step['type']
        yield (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).rpartition('.')[2], step


def _list_metrics(metric: Mapping[str, Any]) -> Sequence[str]:
    names = metric.get('metric') or ()
    return [names] if isinstance(names, str) else names
