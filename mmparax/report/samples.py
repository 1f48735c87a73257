"""Predictions of the runs for the same test images."""
import contextlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from torchvision.ops import nms

from mmparax.analysis.routing.measure import spread_indices
from mmparax.config.query import find_datasets, list_dataset_paths
from mmparax.errors import UserError
from mmparax.inference.pictures import colorize, draw_objects, outline
from mmparax.inference.predictions import INSTANCE_OFFSET, load_model, predict, read_image
from mmparax.report.groups import shorten_path
from mmparax.report.runs import TrainingRun
from mmparax.utils.progress import Progress

SCORE_THR = 0.3
FEW = 5  # objects that are shown if no score reaches SCORE_THR
LONGEST = 384  # pixels of a picture's longer side in the report


@dataclass
class GallerySample:
    """A picture or a text, or both: of an image, of the ground truth, or of a prediction."""
    picture: np.ndarray | None = None
    text: str = ''


@dataclass
class Gallery:
    """Predictions of the runs that were tested on one data set.

    Attributes:
        names: of the images.
        images: the images.
        truths: the ground truth of each image; empty if the config's test pipeline loads no annotations.
        predictions: name of a run -> its prediction for each image.
        notes: name of a run -> why it has no predictions.
        classes: name -> colour of the classes that are on label maps.
    """
    names: list[str] = field(default_factory=list)
    images: list[GallerySample] = field(default_factory=list)
    truths: list[GallerySample] = field(default_factory=list)
    predictions: dict[str, list[GallerySample]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    classes: dict[str, Sequence[int]] = field(default_factory=dict)


def sample_predictions(runs: Sequence[TrainingRun], count: int) -> list[Gallery]:
    """Let every run that has a checkpoint and its data predict some images, spread over its test set.

    Args:
        runs: of one or several tasks.
        count: number of images.

    Returns:
        One gallery for each data set that any of the runs was tested on.
    """
    galleries: dict[str, Gallery] = {}
    for run in Progress(runs, 'predictions', unit='run'):
        found = next(find_datasets(run.cfg.get('test_dataloader') or run.cfg.get('val_dataloader')), None)
        if found is None:
            galleries.setdefault('', Gallery()).notes[run.name] = 'its config names no test data'
            continue
        dataset = dict(found)
        key = json.dumps({name: value for name, value in dataset.items() if name != 'pipeline'}, sort_keys=True, default=str)
        gallery = galleries.setdefault(key, Gallery())
        # Each run has its own scope: another run may have set another one.
        DefaultScope.get_instance(f'report-{run.folder}', scope_name=run.cfg.get('default_scope', 'mmengine'))
        try:
            _add_run(gallery, run, dataset, count)
        except UserError as error:
            gallery.notes[run.name] = str(error)
        except Exception as error:  # a toolbox may raise anything; the report goes on with the other runs
            gallery.notes[run.name] = f'{type(error).__name__}: {error}'
    return list(galleries.values())


def _add_run(gallery: Gallery, run: TrainingRun, dataset: dict[str, Any], count: int) -> None:
    if run.checkpoint is None:
        gallery.notes[run.name] = 'its checkpoint is not there'
        return
    absent = next((path for _, path in list_dataset_paths(dataset) if not os.path.exists(path)), None)
    if absent is not None:
        gallery.notes[run.name] = (f'its data are not there ({shorten_path(absent)}, looked for from the folder in which the '
                                   'report was started)')
        return
    with contextlib.redirect_stdout(io.StringIO()):  # mmengine prints the name of each checkpoint
        model = load_model(run.cfg, str(run.checkpoint))
    classes, palette = model.dataset_meta['classes'], model.dataset_meta['palette']
    pipeline = dataset.pop('pipeline', [])
    annotations = [transform for transform in pipeline if 'Annotations' in str(transform['type'])]
    data = DATASETS.build({**dataset, 'pipeline': [], 'test_mode': True})
    entries = [data.get_data_info(index) for index in spread_indices(len(data), count)]
    images = [read_image(entry['img_path']) if entry.get('img_path') else entry['img'] for entry in entries]
    if not gallery.images:
        load = Compose([*([dict(type='LoadImageFromFile')] if entries[0].get('img_path') else []), *annotations])
        gallery.names = [_name_image(entry, number) for number, entry in enumerate(entries, 1)]
        gallery.images = [GallerySample(shrink(image)) for image in images]
        truths = [_draw_truth(load(entry), image, classes, palette) for entry, image in zip(entries, images)]
        gallery.truths = [truth for truth in truths if truth is not None] if None not in truths else []
    predictions = [predict(model, run.cfg, entry.get('img_path', ''), image) for entry, image in zip(entries, images)]
    gallery.predictions[run.name] = [_draw_sample(sample, image, classes, palette) for sample, image in zip(predictions, images)]
    if any('pred_sem_seg' in sample or 'pred_panoptic_seg' in sample for sample in predictions):
        shown = {
            tuple(color) for sample in gallery.truths + gallery.predictions[run.name]
            for color in np.unique(sample.picture.reshape(-1, 3), axis=0).tolist()
        }
        shown |= {tuple(color) for color in gallery.classes.values()}
        gallery.classes = {name: color for name, color in zip(classes, palette) if tuple(color) in shown}


def _name_image(entry: Mapping[str, Any], number: int) -> str:
    """Name an image by its file, or by its number among those that are shown."""
    return os.path.splitext(os.path.basename(entry['img_path']))[0] if entry.get('img_path') else f'image {number}'


def shrink(picture: np.ndarray, map_of_classes: bool = False) -> np.ndarray:
    """Shrink a picture to at most LONGEST pixels along its longer side; colours of a map of classes are not mixed."""
    factor = LONGEST / max(picture.shape[:2])
    if factor >= 1:
        return picture
    size = tuple(max(1, round(side * factor)) for side in picture.shape[1::-1])
    resampling = Image.Resampling.NEAREST if map_of_classes else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(picture).resize(size, resampling))


def _draw_truth(entry: Mapping[str, Any], image: np.ndarray, classes: Sequence[str],
                palette: Sequence[Sequence[int]]) -> GallerySample | None:
    if 'gt_seg_map' in entry:
        return GallerySample(shrink(colorize(entry['gt_seg_map'], palette), True))
    if 'gt_bboxes' in entry:
        boxes, labels = entry['gt_bboxes'].tensor.numpy(), entry['gt_bboxes_labels'].tolist()
        masks = entry['gt_masks'].to_ndarray().astype(bool) if 'gt_masks' in entry else _make_empty_masks(len(labels), image)
        return _draw_objects(image, masks, boxes, labels, [classes[label] for label in labels], palette)
    if 'gt_label' in entry and np.ndim(entry['gt_label']) == 0:
        return GallerySample(text=classes[int(entry['gt_label'])])
    return None


def _make_empty_masks(count: int, image: np.ndarray) -> np.ndarray:
    return np.ones((count, *image.shape[:2]), bool) if count else np.zeros((0, *image.shape[:2]), bool)


def _draw_objects(image: np.ndarray, masks: np.ndarray, boxes: np.ndarray, labels: Sequence[int], texts: Sequence[str],
                  palette: Sequence[Sequence[int]]) -> GallerySample:
    return GallerySample(shrink(draw_objects(image, masks, boxes, [palette[label] for label in labels], texts)))


def _draw_sample(sample: Any, image: np.ndarray, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> GallerySample:
    if 'pred_panoptic_seg' in sample:
        segments = sample.pred_panoptic_seg.sem_seg[0].numpy()
        return GallerySample(shrink(outline(colorize(segments % INSTANCE_OFFSET, palette), segments), True))
    if 'pred_instances' in sample:
        found = sample.pred_instances
        found = found[nms(found.bboxes, found.scores, 0.5)]  # of several readings of an object the one with the best score
        sure = found[found.scores >= SCORE_THR]
        found = sure if len(sure) else found[:FEW]
        labels = found.labels.tolist()
        masks = found.masks.numpy().astype(bool) if 'masks' in found else _make_empty_masks(len(labels), image)
        return _draw_objects(image, masks, found.bboxes.numpy(), labels,
                             [f'{classes[label]}: {score:.2f}' for label, score in zip(labels, found.scores.tolist())], palette)
    if 'pred_sem_seg' in sample:
        return GallerySample(shrink(colorize(sample.pred_sem_seg.data[0].numpy(), palette), True))
    score, label = sample.pred_score.max(0)
    return GallerySample(text=f'{classes[int(label)]} ({score.item():.0%})')
