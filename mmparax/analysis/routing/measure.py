"""Measures the gates of a model over the images of a data set; saves its state and continues after an interruption."""
import hashlib
import json
import logging
import math
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from mmparax.analysis.measuring import SAVE_SECONDS, write_arrays
from mmparax.checks.data import check_datasets
from mmparax.checks.gates import GateSums, RoutedAdapter, attach_readers, find_routed_adapters, normalize_gates
from mmparax.errors import InputError, ParameterError
from mmparax.inference.predictions import load_model
from mmparax.utils.progress import Progress

TOP = 8  # images that are kept for each expert
STATE = 'routing_state.npz'


class RoutingTotals:
    """Sums and extremes over the images seen so far; their memory does not grow with the number of images.

    Args:
        adapters: those of the model.
        classes: number of classes of the data.
        top: images that are kept for each expert.

    Attributes:
        gates: sums over all images.
        class_images: (classes,), the number of images with each class.
        class_sums: (G, M) -> (classes, A, G, M), sums of the shares over these images.
        best: (G, M) -> (A, G, M, top), the largest gates; the earlier image wins a tie.
        best_images: (G, M) -> (A, G, M, top), their images; -1 for none.
    """

    def __init__(self, adapters: Sequence[RoutedAdapter], classes: int, top: int = TOP):
        self.gates, self.top = GateSums(adapters), top
        self.class_images = torch.zeros(classes, dtype=torch.float64)
        self.class_sums, self.best, self.best_images = {}, {}, {}
        for (groups, experts), numbers in self.gates.shapes.items():
            size = (len(numbers), groups, experts)
            self.class_sums[groups, experts] = torch.zeros(classes, *size, dtype=torch.float64)
            self.best[groups, experts] = torch.full((*size, top), -math.inf, dtype=torch.float64)
            self.best_images[groups, experts] = torch.full((*size, top), -1)

    def add(self, gates: Mapping[int, Tensor], images: Sequence[int], labels: Sequence[Sequence[int]]) -> None:
        """Add a batch.

        Args:
            gates: number of the adapter -> (G, B, M) on the CPU.
            images: numbers of the B images.
            labels: the classes in each image.
        """
        self.gates.add(gates)
        has_class = torch.zeros(len(images), len(self.class_images), dtype=torch.float64)
        for row, present in zip(has_class, labels):
            row[list(present)] = 1
        self.class_images += has_class.sum(0)
        for shape, numbers in self.gates.shapes.items():
            x = torch.stack([gates[number] for number in numbers]).double()
            self.class_sums[shape] += torch.einsum('bc,agbm->cagm', has_class, normalize_gates(x))
            values = torch.cat([self.best[shape], x.transpose(2, 3)], -1)
            numbered = torch.tensor(images).expand(*x.shape[:2], x.shape[3], -1)
            order = torch.argsort(values, dim=-1, descending=True, stable=True)[..., :self.top]
            self.best[shape] = values.gather(-1, order)
            self.best_images[shape] = torch.cat([self.best_images[shape], numbered], -1).gather(-1, order)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all of it as arrays, for a file."""
        arrays = dict(gates=self.gates.flatten('cpu').numpy(), class_images=self.class_images.numpy())
        for kind in ('class_sums', 'best', 'best_images'):
            for (groups, experts), values in getattr(self, kind).items():
                arrays[f'{kind}/{groups}/{experts}'] = values.numpy()
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the arrays of :meth:`to_arrays`."""
        self.gates.load_flat(torch.from_numpy(arrays['gates']))
        self.class_images = torch.from_numpy(arrays['class_images'])
        for kind in ('class_sums', 'best', 'best_images'):
            for shape in self.gates.shapes:
                getattr(self, kind)[shape] = torch.from_numpy(arrays[f'{kind}/{shape[0]}/{shape[1]}'])


# ---- the data ----


def choose_dataloader(cfg: Config) -> str:
    """Choose the dataloader of a config that gives the images: that of validation, or else of testing.

    Raises:
        InputError: if the config has neither.
    """
    for name in ('val_dataloader', 'test_dataloader'):
        if cfg.get(name):
            return name
    raise InputError(f'the config {cfg.filename!r} has neither val_dataloader nor test_dataloader, so there are no '
                     'images.')


def build_validation_data(cfg: Config) -> tuple[Any, int]:
    """Build the data set of :func:`choose_dataloader`; return it and the number of processes that read it.

    Raises:
        InputError: if it is empty.
    """
    name = choose_dataloader(cfg)
    dataset = DATASETS.build(cfg[name].dataset)
    if not len(dataset):
        raise InputError(f'{name}.dataset has no images.')
    return dataset, cfg[name].get('num_workers', 0)


def spread_indices(total: int, count: int | None) -> list[int]:
    """Choose ``count`` of the numbers below ``total``, evenly spread, because data are often sorted by class; None: all."""
    if count is None or count >= total:
        return list(range(total))
    return [number * total // count for number in range(count)]


def find_labels(sample: Any, classes: int) -> list[int]:
    """Find the classes in the annotation of a data sample of any task; none without an annotation."""
    parts: list[Tensor] = []
    if 'gt_label' in sample:
        parts.append(torch.as_tensor(sample.gt_label))
    if 'gt_instances' in sample and 'labels' in sample.gt_instances:
        parts.append(torch.as_tensor(sample.gt_instances.labels))
    if 'gt_sem_seg' in sample:
        maps = sample.gt_sem_seg
        parts.append(torch.as_tensor(maps.data if 'data' in maps else maps.sem_seg))
    values = torch.cat([labels.flatten().long() for labels in parts]).unique().tolist() if parts else []
    return [value for value in values if 0 <= value < classes]


def batch_by_size(entries: Iterator[tuple[int, dict[str, Any]]], size: int) -> Iterator[tuple[list[int], list[dict[str, Any]]]]:
    """Batch images of one size, in order: padding one to the size of another would change its gates.

    Args:
        entries: number and sample of each image.
        size: of the batches, at most.

    Yields:
        tuple: numbers and samples of the images of a batch.
    """
    images: list[int] = []
    samples: list[dict[str, Any]] = []
    for image, sample in entries:
        if samples and (len(samples) == size or samples[0]['inputs'].shape != sample['inputs'].shape):
            yield images, samples
            images, samples = [], []
        images.append(image)
        samples.append(sample)
    if samples:
        yield images, samples


def _return_sample(sample: Any) -> Any:
    return sample


# ---- the measurement ----


def measure_routing(
        cfg: Config, checkpoint: str, out: Path, device: str, num_images: int | None, batch_size: int,
        check: Callable[['RoutingMeasurement'], None] = lambda measurement: None) -> tuple['RoutingMeasurement', dict[str, Any]]:
    """Measure the gates of a checkpoint over the validation data of its config.

    Args:
        cfg: the config.
        checkpoint: path of the checkpoint.
        out: folder of the results.
        device: where the model runs.
        num_images: how many images; None: all.
        batch_size: images at a time.
        check: called before the first image.

    Returns:
        tuple: the finished measurement, and what identifies the model, for the result.

    Raises:
        UserError: if the data are not there, or the checkpoint belongs to another config.
    """
    name = choose_dataloader(cfg)
    check_datasets(cfg, [name])
    model = load_model(cfg, checkpoint, device)
    dataset, workers = build_validation_data(cfg)
    identity = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest() if Path(checkpoint).is_file() else None
    key = dict(model=cfg.model, data=cfg[name].dataset, checkpoint=identity or checkpoint)
    measurement = RoutingMeasurement(model, dataset, out, key, num_images)
    check(measurement)
    if measurement.num_seen:
        print(f'{measurement.num_seen} of {len(measurement.images)} images were seen before.')
    measurement.run(batch_size, workers)
    return measurement, dict(config=cfg.filename, checkpoint=checkpoint, checkpoint_sha256=identity)


class RoutingMeasurement:
    """The gates of a model over a data set.

    Args:
        model: in evaluation mode, from :func:`mmparax.inference.predictions.load_model`.
        dataset: gives what the model's ``data_preprocessor`` takes.
        folder: where the state is saved.
        key: what else the result depends on; a saved state with another key is not used.
        num_images: how many images, evenly spread over the data; None for all.

    Raises:
        InputError: if the model has no AdaRoute adapter.
    """

    def __init__(self, model: nn.Module, dataset: Any, folder: Path, key: Mapping[str, Any], num_images: int | None = None):
        self.model, self.dataset, self.folder = model, dataset, Path(folder)
        self.adapters = find_routed_adapters(model)
        names = (getattr(dataset, 'metainfo', None) or {}).get('classes') or getattr(model, 'dataset_meta', {}).get('classes')
        self.classes = [str(name) for name in names or ()]
        self.images = spread_indices(len(dataset), num_images)
        self.totals = RoutingTotals(self.adapters, len(self.classes))
        text = json.dumps(
            [key, len(dataset), len(self.images), [adapter.name for adapter in self.adapters], TOP], sort_keys=True, default=str)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self._restore()

    @property
    def num_seen(self) -> int:
        """Number of images seen so far."""
        return self.totals.gates.images

    def _restore(self) -> None:
        path = self.folder / STATE
        if not path.is_file():
            return
        try:
            with np.load(path, allow_pickle=False) as saved:
                if str(saved['key']) == self.key:
                    self.totals.restore(saved)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            print_log(f'{path} cannot be read: the measurement starts anew.', logger='current', level=logging.WARNING)
            self.totals = RoutingTotals(self.adapters, len(self.classes))

    def save(self) -> None:
        """Write the totals, from which the measurement continues after an interruption."""
        write_arrays(self.folder / STATE, dict(key=np.array(self.key), **self.totals.to_arrays()))

    @torch.no_grad()
    def run(self, batch_size: int = 8, workers: int = 0, save_every: float = SAVE_SECONDS) -> None:
        """Run the images that were not seen yet, with a progress bar.

        Args:
            batch_size: images at a time; those of different sizes are not put together.
            workers: processes that read images.
            save_every: seconds between two saves.

        Raises:
            InputError: if gates are not finite.
        """
        seen: dict[int, Tensor] = {}
        handles = attach_readers(self.adapters, seen.__setitem__)
        try:
            with Progress(total=len(self.images), initial=self.num_seen, desc='routing', unit='image') as bar:
                saved = time.monotonic()
                for images, samples in batch_by_size(self._load_rest(workers), batch_size):
                    self._run_backbone(samples)
                    gates = {number: values.cpu() for number, values in seen.items()}
                    self._check_finite(gates)
                    labels = [find_labels(sample['data_samples'], len(self.classes)) for sample in samples]
                    self.totals.add(gates, images, labels)
                    bar.update(len(images))
                    if time.monotonic() - saved >= save_every:
                        self.save()
                        saved = time.monotonic()
        finally:
            for handle in handles:
                handle.remove()
        self.save()

    def _load_rest(self, workers: int) -> Iterator[tuple[int, dict[str, Any]]]:
        left = self.images[self.num_seen:]
        if not left:
            return
        loader = DataLoader(Subset(self.dataset, left), batch_size=None, num_workers=workers, collate_fn=_return_sample)
        yield from zip(left, loader)

    def _run_backbone(self, samples: list[dict[str, Any]]) -> None:
        # The backbone suffices: the gates do not depend on heads.
        self.model.extract_feat(self.model.data_preprocessor(pseudo_collate(samples), False)['inputs'])

    def _check_finite(self, gates: Mapping[int, Tensor]) -> None:
        for number, values in gates.items():
            if not values.isfinite().all():
                raise InputError(f'the gates of {self.adapters[number].name} are not finite: its run may have '
                                 'diverged.')

    def get_picture(self, image: int) -> np.ndarray:
        """Return an image as the model gets it, (H, W, 3) uint8 RGB."""
        pixels = self.dataset[image]['inputs']
        preprocessor = self.model.data_preprocessor
        if getattr(preprocessor, '_channel_conversion', getattr(preprocessor, 'to_rgb', False)):
            pixels = pixels.flip(0)
        return pixels.permute(1, 2, 0).clamp(0, 255).byte().numpy()

    def get_path(self, image: int) -> str | None:
        """Return the file of an image, if it has one of its own."""
        return self.dataset.get_data_info(image).get('img_path')

    def check_adapter(self, name: str) -> None:
        """Raise ParameterError, which lists the adapters, if none has this name."""
        names = [adapter.name for adapter in self.adapters]
        if name not in names:
            raise ParameterError('adapter', name, f'the model has {", ".join(names)}')

    def check_class(self, name: str) -> None:
        """Raise ParameterError, which lists the classes, if none has this name."""
        if name not in self.classes:
            raise ParameterError('classes', name, f'the data have {", ".join(self.classes) or "no classes"}')
