"""The prediction of a model of any task for one image, and as a table."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.image import imread
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import MODELS
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmparax.backbones.adapted import find_adapted_backbones
from mmparax.checks.checkpoint import check_origin
from mmparax.config.query import find_datasets, get_metainfo, get_model_config
from mmparax.errors import InputError, MissingFileError
from mmparax.inference.drawing import INSTANCE_OFFSET, make_palette

TOP = 5


def load_model(cfg: Config, checkpoint: str, device: str = 'cpu') -> nn.Module:
    """Build the model of a config and load a checkpoint into it, completely.

    Args:
        cfg: the config, whose scope must be the default scope.
        checkpoint: path or URL.
        device: where the model goes.

    Returns:
        The model in evaluation mode, with ``dataset_meta``: names and colours of the classes.

    Raises:
        InputError: if the checkpoint does not fit.
    """
    model, content = build_and_load(cfg, checkpoint)
    meta = dict((content.get('meta') or {}).get('dataset_meta') or _find_metainfo(cfg))
    classes = meta.get('classes') or [f'class {number}' for number in range(1000)]
    model.dataset_meta = {**meta, 'classes': tuple(classes), 'palette': make_palette(meta, len(classes))}
    return model.to(device).eval()


def build_and_load(cfg: Config, checkpoint: str) -> tuple[nn.Module, dict[str, Any]]:
    """Build the model of a config on the CPU and load a checkpoint into it, completely.

    Returns:
        tuple: the model and the content of the checkpoint.

    Raises:
        InputError: if the checkpoint does not fit.
    """
    model = revert_sync_batchnorm(MODELS.build(get_model_config(cfg)))
    content = load_checkpoint(model, checkpoint, map_location='cpu')
    if find_adapted_backbones(model):
        check_origin(model, content, checkpoint, training=False)
    return model, content


def _find_metainfo(cfg: Config) -> dict[str, Any]:
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        for dataset in find_datasets(cfg.get(loader)):
            return get_metainfo(cfg, dataset)
    return {}


def read_image(path: str) -> np.ndarray:
    """Read an image, (H, W, 3) uint8 RGB.

    Raises:
        MissingFileError: if there is no such file.
        InputError: if it is no image that can be read.
    """
    try:
        image = imread(path, channel_order='rgb')
    except FileNotFoundError:
        raise MissingFileError(f'the image {path!r} does not exist.') from None
    except Exception as error:  # a decoder may raise anything
        raise InputError(f'{path!r} cannot be read as an image ({type(error).__name__}).') from error
    if image is None:
        raise InputError(f'{path!r} cannot be read as an image.')
    return image


def get_test_pipeline(cfg: Config) -> list[Any]:
    """Return the transforms that prepare an image for testing, without those that load annotations.

    Raises:
        InputError: if the config has no test pipeline.
    """
    pipelines = [
        dataset.get('pipeline') for loader in ('test_dataloader', 'val_dataloader') for dataset in find_datasets(cfg.get(loader))
    ] + [cfg.get('test_pipeline')]
    pipeline = next((found for found in pipelines if found), None)
    if pipeline is None:
        raise InputError(f'the config {cfg.filename!r} has no test_dataloader.dataset.pipeline, which prepares images.')
    return [transform for transform in pipeline if 'Annotations' not in str(transform['type'])]


def loads_files(pipeline: Sequence[Any]) -> bool:
    """Whether a pipeline reads files, in BGR order. Data sets that hold their images as arrays, as CIFAR does, hold RGB."""
    return any('LoadImage' in str(transform['type']) for transform in pipeline)


def make_pipeline_input(path: str, image: np.ndarray) -> dict[str, Any]:
    """Make the input of a pipeline that does not read ``image``, (H, W, 3) uint8 RGB, itself."""
    return dict(img_path=path, img_id=0, img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])


@torch.no_grad()
def predict(model: nn.Module, cfg: Config, path: str, image: np.ndarray) -> Any:
    """Run the test pipeline of a config and a model on one image.

    Args:
        model: from :func:`load_model`.
        cfg: its config.
        path: file of the image.
        image: its content, from :func:`read_image`.

    Returns:
        The toolbox's data sample with the prediction at the size of the image.

    Raises:
        InputError: if the config has no test pipeline.
    """
    pipeline = get_test_pipeline(cfg)
    results = dict(img_path=path, img_id=0) if loads_files(pipeline) else make_pipeline_input(path, image)
    return model.test_step(pseudo_collate([Compose(pipeline)(results)]))[0].cpu()


def tabulate_prediction(sample: Any, classes: Sequence[str], score_thr: float) -> tuple[list[str], list[tuple[str, ...]]]:
    """List a prediction as a table.

    Args:
        sample: from :func:`predict`.
        classes: names of the classes.
        score_thr: leave out objects with a lower score.

    Returns:
        tuple: headings and rows.
    """
    if 'pred_panoptic_seg' in sample:
        segments = _measure_shares(sample.pred_panoptic_seg.sem_seg)
        return ['segment', 'of the pixels'
                ], [(classes[segment % INSTANCE_OFFSET] if segment % INSTANCE_OFFSET < len(classes) else '(none)', f'{share:.1%}')
                    for segment, share in segments]
    if 'pred_sem_seg' in sample:
        return ['class',
                'of the pixels'], [(classes[label], f'{share:.1%}') for label, share in _measure_shares(sample.pred_sem_seg.data)]
    if 'pred_instances' in sample:
        found = sample.pred_instances[sample.pred_instances.scores >= score_thr]
        return ['object', 'score', 'box (left, top, right, bottom)'
                ], [(classes[label], f'{score:.2f}', ', '.join(f'{edge:.0f}' for edge in box))
                    for label, score, box in zip(found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist())]
    scores, labels = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
    return ['class', 'score'], [(classes[label], f'{score:.3f}') for label, score in zip(labels.tolist(), scores.tolist())]


def _measure_shares(labels: Tensor) -> list[tuple[int, float]]:
    """List (value, share of the pixels) of the values of a map, the largest share first."""
    values, counts = labels.unique(return_counts=True)
    shares = (counts / labels.numel()).tolist()
    return sorted(zip(values.tolist(), shares), key=lambda entry: -entry[1])
