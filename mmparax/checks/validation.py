"""Whether a validation works: its batches, its metrics, and what the run makes of their values."""
import contextlib
import io
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from numbers import Real
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import EVALUATOR, METRICS
from torch import nn

from mmparax.checks.optimization import list_schedulers
from mmparax.errors import InputError, ParameterError, UserError
from mmparax.utils.images import read_header
from mmparax.utils.signatures import get_keyword_defaults
from mmparax.utils.text import join_names

HEADERS = 100  # images whose sizes are compared
OUTPUT_OPTIONS = ('outfile_prefix', 'output_dir', 'out_file_path', 'out_dir')  # of metrics that write files


def build_evaluator(config: Any, metainfo: Any) -> Evaluator:
    """Build an evaluator as mmengine's runner does.

    Args:
        config: an evaluator, or one or several metrics.
        metainfo: of the data set.
    """
    if isinstance(config, Mapping) and 'metrics' in config:
        evaluator = EVALUATOR.build({'type': 'Evaluator', **config})
    else:
        evaluator = config if isinstance(config, Evaluator) else Evaluator(config)
    evaluator.dataset_meta = metainfo
    return evaluator


def redirect_outputs(config: Any, folder: str) -> Any:
    """A copy of an evaluator's config that writes its files into a folder, or into one of its own where it can.

    mmdetection's panoptic metric expects a prediction for every image of the data set when it is told where to write.
    """
    if isinstance(config, Mapping):
        return {
            name: f'{folder}/{name}' if name in OUTPUT_OPTIONS and value else redirect_outputs(value, folder)
            for name, value in config.items() if not (name == 'outfile_prefix' and _has_own_folder(config))
        }
    if isinstance(config, (list, tuple)):
        return [redirect_outputs(entry, folder) for entry in config]
    return config


def _has_own_folder(metric: Mapping[str, Any]) -> bool:
    """Whether a metric makes a temporary folder if ``outfile_prefix`` is not given."""
    cls = metric.get('type')
    cls = METRICS.get(cls) if isinstance(cls, str) else cls
    return cls is not None and not metric.get('format_only') and \
        get_keyword_defaults(cls).get('outfile_prefix', '') is None


@torch.no_grad()
def validate(model: nn.Module, batch: Any, dataset: Any, evaluator: Evaluator) -> tuple[dict[str, Any], int]:
    """Validate a model on a batch.

    Args:
        model: on its device.
        batch: of a dataloader.
        dataset: that it comes from.
        evaluator: with the names of the classes.

    Returns:
        The metrics, and the number of images.

    Raises:
        InputError: if the batch has no annotations for the metrics, or its images cannot be put together.
    """
    was_training = model.training
    model.eval()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            outputs = model.val_step(batch)
            evaluator.process(data_samples=outputs, data_batch=batch)
            return evaluator.evaluate(len(outputs)), len(outputs)
    except Exception as error:
        explained = explain_failure(error, batch, dataset)
        if explained is None:
            raise
        raise explained from error
    finally:
        model.train(was_training)


def validate_apart(model: nn.Module, batch: Any, dataset: Any, config: Any) -> tuple[dict[str, Any], int]:
    """As :func:`validate`, by an evaluator that is built from its config and whose files go elsewhere.

    Args:
        model: on its device.
        batch: of a dataloader.
        dataset: that it comes from.
        config: of the evaluator.
    """
    with tempfile.TemporaryDirectory() as folder:
        evaluator = build_evaluator(redirect_outputs(config, folder), getattr(dataset, 'metainfo', None))
        return validate(model, batch, dataset, evaluator)


# ---- what is wrong ----


def explain_failure(error: Exception, batch: Any, dataset: Any, place: str = 'val_dataloader') -> InputError | None:
    """Explain why a validation failed, or return None if the error is of another kind.

    Args:
        error: that was raised.
        batch: on which.
        dataset: of the batch.
        place: of its dataloader in the config.
    """
    if isinstance(error, UserError):
        return None
    samples = batch.get('data_samples') or [] if isinstance(batch, Mapping) else []
    if samples and isinstance(error, (KeyError, AttributeError)) and not _list_annotations(samples[0]):
        return _describe_missing_annotations(dataset, f'{place}.dataset.pipeline')
    inputs = batch.get('inputs') if isinstance(batch, Mapping) else None
    shapes = sorted({tuple(image.shape[-2:]) for image in inputs}) if isinstance(inputs, (list, tuple)) else []
    if len(shapes) > 1 and isinstance(error, (AssertionError, RuntimeError)):
        return _describe_mixed_sizes(place, len(samples), shapes)
    return None


def _list_annotations(sample: Any) -> list[str]:
    """The fields of a sample that hold annotations; mmdetection's samples have empty ones, too."""
    if not hasattr(sample, 'keys'):
        return ['unknown']
    fields = {name: sample.get(name) for name in sample.keys() if name.startswith('gt_')}
    return [name for name, value in fields.items() if not hasattr(value, 'keys') or value.keys()]


def _describe_missing_annotations(dataset: Any, parameter: str) -> ParameterError:
    while hasattr(dataset, 'wrapped'):
        dataset = dataset.wrapped
    steps = [type(step).__name__ for step in getattr(getattr(dataset, 'pipeline', None), 'transforms', [])]
    return ParameterError(parameter, steps, 'the metrics compare with annotations, and no step of it loads them',
                          "Add dict(type='LoadAnnotations', ...) before the last step, as the pipeline of the training has it.")


def _describe_mixed_sizes(place: str, count: int, shapes: Sequence[tuple[int, int]]) -> ParameterError:
    sizes = ' and '.join(f'{width}x{height}' for height, width in shapes[:2])
    return ParameterError(f'{place}.batch_size', count, f'images of different sizes ({sizes}) do not make a batch',
                          f'Set {place}.batch_size=1, or '
                          'resize all to one size.')


def check_mixed_sizes(model: nn.Module, loader: Any, place: str = 'val_dataloader') -> None:
    """Check that images of different sizes can be put into one batch of a validation, if there are such images.

    Args:
        model: its data preprocessor makes the batches.
        loader: of the validation.
        place: of it in the config.

    Raises:
        ParameterError: if they cannot.
    """
    if not loader.batch_size or loader.batch_size < 2 or not hasattr(model, 'data_preprocessor'):
        return
    pair = _find_different_sizes(loader.dataset)
    if pair is None:
        return
    batch = loader.collate_fn([loader.dataset[index] for index in pair])
    inputs = batch.get('inputs') if isinstance(batch, Mapping) else None
    if not isinstance(inputs, (list, tuple)) or len({tuple(image.shape) for image in inputs}) == 1:
        return
    try:
        model.data_preprocessor(batch, False)
    except (AssertionError, RuntimeError) as error:
        raise _describe_mixed_sizes(place, loader.batch_size, [tuple(image.shape[-2:]) for image in inputs]) from error


def _find_different_sizes(dataset: Any) -> tuple[int, int] | None:
    """Indices of two images of a data set whose files have different sizes."""
    first = None
    for index in range(min(len(dataset), HEADERS)):
        try:
            size = read_header(dataset.get_data_info(index)['img_path']).loaded_size
        except (AttributeError, KeyError, OSError, TypeError):
            return None
        if first is None:
            first = size
        elif size != first:
            return 0, index
    return None


def list_monitored(cfg: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (place in the config, name) of the metrics by which a run decides something.

    Args:
        cfg: of the run: its checkpoint hook chooses the best file by them, its early stopping ends it.
    """
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint')
    best = checkpoint.get('save_best') if isinstance(checkpoint, Mapping) else None
    for name in [best] if isinstance(best, str) else best or []:
        yield 'default_hooks.checkpoint.save_best', name
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, Mapping) and 'EarlyStopping' in str(hook.get('type')) and hook.get('monitor'):
            yield f'custom_hooks.{number}.monitor', hook['monitor']
    for place, scheduler in list_schedulers(cfg.get('param_scheduler')):
        if 'ReduceOnPlateau' in str(scheduler.get('type')):
            yield f'{place}.monitor', scheduler.get('monitor', 'loss')  # mmengine's default


def check_monitored(cfg: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Check that the metrics by which a run chooses its best checkpoint, or stops, are among those that it computes.

    Args:
        cfg: of the run.
        metrics: what a validation gave; none at all is what metrics of detection give where nothing was found.

    Raises:
        ParameterError: naming the option and listing the metrics.
    """
    for place, name in list_monitored(cfg) if metrics else ():
        if name != 'auto' and name not in metrics:
            raise ParameterError(place, name, f'the validation computes {join_names(sorted(metrics), 20)}',
                                 'Choose one of them, or change val_evaluator.')


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """The first metrics with their values."""
    return join_names(
        [f'{name} {value:.4g}' if isinstance(value, Real) else f'{name} {value}' for name, value in metrics.items()], 4)


def are_all_nan(metrics: Mapping[str, Any]) -> bool:
    """Whether there are metrics, and none of them is a number."""
    values = [value for value in metrics.values() if isinstance(value, Real)]
    return bool(values) and all(math.isnan(value) for value in values)


def explain_batches(loop: Any, place: str = 'val_dataloader') -> None:
    """Let a loop of mmengine explain the errors of its batches that :func:`explain_failure` knows.

    Args:
        loop: of a runner; its ``run_iter`` is wrapped, once.
        place: of its dataloader in the config.
    """
    run_iter: Callable[..., Any] = loop.run_iter
    if getattr(run_iter, 'explains', False):
        return

    @wraps(run_iter)
    def explain(index: int, batch: Any) -> Any:
        try:
            return run_iter(index, batch)
        except Exception as error:
            explained = explain_failure(error, batch, loop.dataloader.dataset, place)
            if explained is None:
                raise
            raise explained from error

    explain.explains = True  # type: ignore[attr-defined]
    loop.run_iter = explain
