"""Predictions of a trained model for synthetic scenes, drawn beside the ground truth, with what is right and wrong."""
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData, PixelData
from torch import nn
from torchvision.ops import nms

from mmparax.checks.parts import is_dense
from mmparax.datasets.synthetic.scenes import CLASSES, PALETTE, Scene, SceneGenerator
from mmparax.datasets.synthetic.writers import FOLDERS
from mmparax.inference.drawing import draw_sample, draw_truth, enlarge
from mmparax.inference.predictions import load_model, predict, read_image
from mmparax.inference.sheets import Label, LegendEntry, draw_label_sheet, draw_sheet
from mmparax.inference.verdicts import COLORS, MISSED, RIGHT, WRONG, draw_verdict

SCORE_THR = 0.15  # after a few minutes of training few objects score higher
SCENES, CROPS = 3, 32
SIDE = 320  # pixels of the longer side of a picture
COLUMNS = ('input', 'ground truth', 'prediction', 'right / wrong')
NAMES = tuple(name.split()[-1] for name in CLASSES)  # 'digit 3' has no room on a digit


def draw_scene_predictions(cfg: Config, checkpoint: str, data: str, path: Path, title: str, subtitle: str = '',
                           report: Callable[[int, int], Any] = lambda done, total: None) -> None:
    """Draw the predictions of a checkpoint for the first validation scenes or crops.

    Args:
        cfg: a config for the synthetic scenes, of any task.
        checkpoint: file of its weights.
        data: folder of the scenes.
        path: PNG file to write.
        title, subtitle: above the pictures.
        report: called with (scenes or crops done, their number).
    """
    # Each picture has its own scope: another task of this process may have set another one.
    DefaultScope.get_instance(f'scenes-{path}', scope_name=cfg.default_scope)
    model = load_model(cfg, checkpoint)
    if not is_dense(model):
        _draw_crops(model, cfg, Path(data), path, title, subtitle, report)
        return
    meta = json.loads((Path(data) / 'classes.json').read_text(encoding='utf-8'))
    generator = SceneGenerator('val', meta['seed'], tuple(meta['size']))
    count = min(SCENES, meta['counts']['val'])
    rows, captions = [], []
    for number in range(count):
        row, caption = _draw_row(model, cfg, Path(data), generator, number)
        rows.append(row)
        captions.append(caption)
        report(number + 1, count)
    draw_sheet(path, COLUMNS, rows, captions, title, subtitle, _list_legends(model))


def _draw_row(model: nn.Module, cfg: Config, data: Path, generator: SceneGenerator, number: int) -> tuple[list[np.ndarray], str]:
    """Draw a validation scene in every column; how much of its prediction is right."""
    file = str(data / 'images' / FOLDERS['val'] / f'scene_{number:05d}.jpg')
    image = read_image(file)
    sample = predict(model, cfg, file, image)
    _add_truth(sample, generator.generate(number))
    if 'pred_instances' in sample and 'pred_panoptic_seg' not in sample:
        found = sample.pred_instances
        sample.pred_instances = found[nms(found.bboxes, found.scores, 0.5)]  # of several readings of a digit the surest
    scale = SIDE / max(image.shape[:2])
    size = round(image.shape[0] * scale), round(image.shape[1] * scale)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2 + 90, cv2.COLOR_GRAY2RGB)  # below the colours of classes
    truth = draw_truth(grey, sample, NAMES, PALETTE, size)
    prediction = draw_sample(grey, sample, NAMES, PALETTE, SCORE_THR, size)
    verdict, caption = draw_verdict(image, sample, NAMES, SCORE_THR, size)
    return [enlarge(image, size), truth, prediction, verdict], caption


def _add_truth(sample: Any, scene: Scene) -> None:
    """Put the ground truth of a scene into a sample, as the pipelines of its task do."""
    labels = torch.from_numpy(scene.build_semantic_map().astype(np.int64))[None]
    if 'pred_sem_seg' in sample:
        sample.gt_sem_seg = PixelData(data=labels)
        return
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([instance.bbox for instance in scene.instances], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([instance.label for instance in scene.instances],
                            dtype=torch.long), masks=torch.from_numpy(np.stack([instance.mask for instance in scene.instances])))
    if 'pred_panoptic_seg' in sample:
        sample.gt_sem_seg = PixelData(sem_seg=labels)


def _list_legends(model: nn.Module) -> list[list[LegendEntry]]:
    """Lines of the legend: what the colours of the last column mean, then the classes."""
    if hasattr(model, 'panoptic_fusion_head') or hasattr(model, 'roi_head'):
        what = 'segment' if hasattr(model, 'panoptic_fusion_head') else 'digit'
        meanings = [
            LegendEntry(f'right: class, and IoU of at least 0.5 with a true {what}', COLORS[RIGHT]),
            LegendEntry('wrong', COLORS[WRONG]),
            LegendEntry('missed', COLORS[MISSED], dashed=True)
        ]
    else:
        meanings = [LegendEntry('right', COLORS[RIGHT]), LegendEntry('wrong', COLORS[WRONG])]
    shown = model.dataset_meta['classes']
    classes = [LegendEntry(name, color) for name, full, color in zip(NAMES, CLASSES, PALETTE) if full in shown]
    return [[LegendEntry('right / wrong:'), *meanings], classes]


def _draw_crops(model: nn.Module, cfg: Config, data: Path, path: Path, title: str, subtitle: str, report: Callable[[int, int],
                                                                                                                   Any]) -> None:
    classes: Sequence[str] = model.dataset_meta['classes']
    files, labels = _pick_files(data / 'crops' / FOLDERS['val']), []
    for number, file in enumerate(files, 1):
        image = read_image(str(file))
        score, label = predict(model, cfg, str(file), image).pred_score.max(0)
        labels.append(Label(image, file.parent.name, classes[int(label)], score.item()))
        report(number, len(files))
    draw_label_sheet(path, labels, title, subtitle)


def _pick_files(folder: Path) -> Sequence[Path]:
    """Pick the first files of each class in turn, as many as fit on the sheet."""
    by_class = [sorted(child.iterdir()) for child in sorted(folder.iterdir()) if child.is_dir()]
    turns = [files[turn] for turn in range(CROPS) for files in by_class if turn < len(files)]
    return turns[:CROPS]
