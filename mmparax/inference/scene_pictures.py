"""Predictions of a trained model for synthetic scenes, drawn beside the ground truth."""
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn
from torchvision.ops import nms

from mmparax.checks.parts import is_dense
from mmparax.datasets.synthetic.scenes import CLASSES, PALETTE, THING_CLASSES, Scene, SceneGenerator
from mmparax.datasets.synthetic.writers import FOLDERS
from mmparax.inference.pictures import colorize, draw_label_sheet, draw_objects, draw_prediction_sheet, outline
from mmparax.inference.predictions import INSTANCE_OFFSET, load_model, predict, read_image

SCORE_THR = 0.15  # after a few minutes of training few objects score higher
SCENES, CROPS = 6, 24


def draw_scene_predictions(cfg: Config, checkpoint: str, data: str, path: Path, title: str) -> None:
    """Draw the predictions of a checkpoint for the first validation scenes or crops.

    Args:
        cfg: a config for the synthetic scenes, of any task.
        checkpoint: file of its weights.
        data: folder of the scenes.
        path: PNG file to write.
        title: heading.
    """
    # Each picture has its own scope: another task of this process may have set another one.
    DefaultScope.get_instance(f'scenes-{path}', scope_name=cfg.default_scope)
    model = load_model(cfg, checkpoint)
    if not is_dense(model):
        _draw_crops(model, cfg, Path(data), path, title)
    else:
        meta = json.loads((Path(data) / 'classes.json').read_text(encoding='utf-8'))
        generator = SceneGenerator('val', meta['seed'], tuple(meta['size']))
        count = min(SCENES, meta['counts']['val'])
        rows = [tuple(_draw_row(model, cfg, Path(data), generator, number)) for number in range(count)]
        empty = hasattr(model, 'panoptic_fusion_head')  # some pixels may belong to no segment
        draw_prediction_sheet(path, rows, [*CLASSES, 'no segment'] if empty else CLASSES,
                              [*PALETTE, (0, 0, 0)] if empty else PALETTE, title)


def _draw_row(model: nn.Module, cfg: Config, data: Path, generator: SceneGenerator, number: int) -> Iterator[np.ndarray]:
    """Draw input, ground truth and prediction of a validation scene."""
    scene = generator.generate(number)
    file = str(data / 'images' / FOLDERS['val'] / f'scene_{number:05d}.jpg')
    image = read_image(file)
    sample = predict(model, cfg, file, image)
    yield image
    if 'pred_panoptic_seg' in sample:
        segments = sample.pred_panoptic_seg.sem_seg[0].numpy()
        yield outline(colorize(scene.build_semantic_map(), PALETTE), scene.build_panoptic_map()[0])
        yield outline(colorize(segments % INSTANCE_OFFSET, PALETTE), segments)
    elif 'pred_instances' in sample:
        yield _draw_true_objects(image, scene)
        found = sample.pred_instances[sample.pred_instances.scores >= SCORE_THR]
        found = found[nms(found.bboxes, found.scores, 0.5)]  # of several readings of a digit the one with the best score
        labels = found.labels.tolist()
        yield draw_objects(image,
                           found.masks.numpy().astype(bool), found.bboxes.numpy(), [PALETTE[label] for label in labels],
                           [f'{_name_digit(label)}: {score:.2f}' for label, score in zip(labels, found.scores.tolist())])
    else:
        yield colorize(scene.build_semantic_map(), PALETTE)
        yield colorize(sample.pred_sem_seg.data[0].numpy(), PALETTE)


def _draw_true_objects(image: np.ndarray, scene: Scene) -> np.ndarray:
    labels = [instance.label for instance in scene.instances]
    return draw_objects(image, np.array([instance.mask for instance in scene.instances]),
                        np.array([instance.bbox for instance in scene.instances]), [PALETTE[label] for label in labels],
                        [_name_digit(label) for label in labels])


def _name_digit(label: int) -> str:
    return THING_CLASSES[label].split()[-1]


def _draw_crops(model: nn.Module, cfg: Config, data: Path, path: Path, title: str) -> None:
    files = _pick_files(data / 'crops' / FOLDERS['val'])
    images = [read_image(str(file)) for file in files]
    samples = [predict(model, cfg, str(file), image) for file, image in zip(files, images)]
    classes: Sequence[str] = model.dataset_meta['classes']
    best: Sequence[tuple[float,
                         int]] = [(score.item(), int(label)) for score, label in (sample.pred_score.max(0) for sample in samples)]
    draw_label_sheet(path, images, [file.parent.name for file in files], [classes[label] for _, label in best],
                     [score for score, _ in best], title)


def _pick_files(folder: Path) -> Sequence[Path]:
    """Pick the first files of each class in turn, as many as fit on the sheet."""
    by_class = [sorted(child.iterdir()) for child in sorted(folder.iterdir()) if child.is_dir()]
    turns = [files[turn] for turn in range(CROPS) for files in by_class if turn < len(files)]
    return turns[:CROPS]
