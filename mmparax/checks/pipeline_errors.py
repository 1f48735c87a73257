"""Makes one sentence, with the file, of an error that a data pipeline raises in the middle of a run."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mmengine.dataset import Compose
from torch import Tensor

from mmparax.checks.images import examine_image
from mmparax.checks.masks import Labels, examine_mask
from mmparax.checks.pipelines import find_image_loader, find_mask_loading
from mmparax.errors import DataError, UserError
from mmparax.utils.text import summarize_error

FIND_ALL = 'tools/doctor.py CONFIG --scan all finds all such files.'


class NamedPipeline(Compose):
    """mmengine's pipeline, whose errors say which file and which transform they are about.

    Attributes:
        place: where the data set is in the config.
        limit: how many samples in a row may be refused, as the data set counts them.
        for_training: whether masks have the size of what the model sees; else that of the file, for a metric.
        labels: what the values of masks mean, or None: those that are no class become an error that names the mask.
    """
    place: str
    limit: int
    for_training: bool
    labels: Labels | None
    refused: int

    def __call__(self, data: dict[str, Any]) -> dict[str, Any] | None:
        origin = {name: data.get(name) for name in ('img_path', 'sample_idx', 'seg_map_path')} if isinstance(data, dict) else {}
        for transform in self.transforms:
            try:
                data = transform(data)
            except UserError:
                raise
            except Exception as error:
                raise DataError(self._explain(transform, origin, error)) from error
            if data is None:
                self._count_refused(transform, origin)
                return None
        self.refused = 0
        mask = _get_packed_mask(data)
        if mask is not None and origin.get('seg_map_path'):
            self._check_mask(data, mask, origin)
        return data

    def _count_refused(self, transform: Any, origin: dict[str, Any]) -> None:
        self.refused += 1
        if self.refused > self.limit:
            raise DataError(f'{self.place}: {self.refused} sample(s) in a row were refused by the pipeline, the last one, '
                            f'{_name_sample(origin)}, by {type(transform).__name__}: no image with what it asks for (such as an '
                            'object that is large enough) seems to be left. Look at the data with tools/doctor.py CONFIG --scan '
                            'all, and at the options of that transform.')

    def _explain(self, transform: Any, origin: dict[str, Any], error: Exception) -> str:
        reason = find_damaged_file(self, origin)
        if reason:
            return f'{self.place}: {reason}. Mend or remove the file. {FIND_ALL}'
        return (f'{self.place}: the transform {type(transform).__name__} failed on {_name_sample(origin)} '
                f'({summarize_error(error)}).')

    def _check_mask(self, data: dict[str, Any], mask: Tensor, origin: dict[str, Any]) -> None:
        """Compare a mask with its image and the classes: a loss or metric would stop without a name, on a GPU for good."""
        # In training a mask has the size of what the model sees, in validation that of its file, as predictions get it, too.
        sample, name = data['data_samples'], origin['seg_map_path']
        expected = data['inputs'].shape[-2:] if self.for_training else getattr(sample, 'ori_shape', None)
        if expected is not None and tuple(mask.shape[-2:]) != tuple(expected[:2]):
            raise DataError(f'{self.place}: the mask {name!r} gives {tuple(mask.shape[-2:])} (height, width) where its image '
                            f'{origin["img_path"]!r} gives {tuple(expected[:2])}. {FIND_ALL}')
        if self.labels is None or int(mask.max()) < len(self.labels.classes):
            return
        strange = sorted(set(mask[mask >= len(self.labels.classes)].unique().tolist()) - self.labels.ignored)
        if strange:
            raise DataError(f'{self.place}: the mask {name!r} gives the class number(s) {", ".join(map(str, strange[:5]))}, and '
                            f'{self.labels.describe()}. {FIND_ALL}')


def _get_packed_mask(data: Any) -> Tensor | None:
    """The mask of class numbers, (1, H, W), that mmsegmentation packs beside the image; None if there is none of this kind."""
    if not isinstance(data, dict) or not isinstance(data.get('inputs'), Tensor):
        return None
    mask = getattr(getattr(data.get('data_samples'), 'gt_sem_seg', None), 'data', None)
    return mask if isinstance(mask, Tensor) and mask.ndim == 3 and mask.numel() else None


def find_damaged_file(owner: Any, origin: dict[str, Any]) -> str | None:
    """Say which file of a sample cannot be read and why, or None if all can.

    Args:
        owner: what has ``transforms``: they know how it was read.
        origin: the paths of the sample.
    """
    holder = _Holder(owner)
    image = origin.get('img_path')
    image_loader, facts = find_image_loader(holder), None
    if isinstance(image, str) and '://' not in image and image_loader is not None:
        facts = examine_image(image, image_loader)
        if facts.error:
            return f'the image {image!r} cannot be read: {facts.error}'
    loading = find_mask_loading(holder)
    mask = origin.get('seg_map_path')
    if isinstance(mask, str) and '://' not in mask and loading is not None:
        found = examine_mask(mask, loading.loader)
        if found.error:
            return f'the mask {mask!r} cannot be read: {found.error}'
        if found.channels > 1:
            return f'the mask {mask!r} has {found.channels} channels, where a single one must hold class numbers'
        if facts is not None and (found.width, found.height) != (facts.width, facts.height):
            return (f'the mask {mask!r} has {found.width}x{found.height} pixels, and its image {image!r} '
                    f'{facts.width}x{facts.height}')
    return None


class _Holder:
    """What the questions to a data set's pipeline ask."""

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline


def _name_sample(origin: dict[str, Any]) -> str:
    return repr(origin['img_path']) if origin.get('img_path') else f'sample {origin.get("sample_idx")}'


def name_pipeline_errors(dataset: Any, place: str, ignored: Iterable[int] | None = None) -> None:
    """Let the pipelines of a data set, and of those inside it, name the file of each error.

    Args:
        dataset: built; its workers, which get a copy, are not started yet.
        place: where it is in the config.
        ignored: values that a loss leaves out, to check those of masks; None to check none.
    """
    parts = {id(part): part for part in _walk(dataset)}
    for number, part in enumerate(parts.values()):
        pipeline = getattr(part, 'pipeline', None)
        if type(pipeline) is not Compose:
            continue
        classes = (getattr(part, 'metainfo', None) or {}).get('classes')
        loading = find_mask_loading(part) if hasattr(part, 'get_label_map') else None
        pipeline.__class__ = NamedPipeline
        pipeline.place = f'{place}, part {number + 1} of {len(parts)}' if len(parts) > 1 else place
        pipeline.for_training = place.startswith('train')
        pipeline.limit = 0 if getattr(part, 'test_mode', False) else getattr(part, 'max_refetch', 1000)
        pipeline.refused, pipeline.labels = 0, None
        if ignored is not None and classes and loading is not None:
            pipeline.labels = Labels(classes, frozenset(ignored), loading.reduce_zero_label, getattr(part, 'label_map', None))


def _walk(dataset: Any) -> Iterator[Any]:
    """Yield the data sets inside wrappers of any kind."""
    inner = [getattr(dataset, name, None) for name in ('wrapped', 'dataset', '_dataset')]
    inner += list(getattr(dataset, 'datasets', None) or ())
    inner = [part for part in inner if part is not None]
    if not inner:
        yield dataset
    for part in inner:
        yield from _walk(part)
