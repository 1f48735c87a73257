"""On which images a model was evaluated: what the number is of, and whether it is of the data that the config names."""
import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from mmengine.config import Config

from mmparax.config.query import find_datasets, find_metrics
from mmparax.utils.names import join_name
from mmparax.utils.storage import write

# In the folder of the session, where mmengine's copy of the config is: the one JSON file beside the log is that of the metrics.
FILE = 'vis_data/evaluation.json'
# Options that do not change which images there are, nor what is true of them.
HOW = ('pipeline', 'metainfo', 'test_mode', 'lazy_init', 'serialize_data', 'max_refetch', 'backend_args', 'shuffle', 'seed')
OUTPUTS = ('output_dir', 'outfile_prefix', 'out_file_path', 'format_only', 'collect_device', 'keep_results')
NO_SPLITS = ('images', 'image', 'img', 'imgs', 'jpegimages', 'leftimg8bit', 'data', '')


def describe_data(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What a config evaluates on, as plain data: test set, sampler, and the files that its evaluators read.

    Two configs with equal descriptions evaluate on the same images, however they are prepared and shown.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    evaluator = 'test_evaluator' if cfg.get('test_evaluator') else 'val_evaluator'
    metrics = [metric for _, metric in find_metrics(cfg, evaluator) if metric.get('type') != 'DumpResults']
    found = dict(dataset=loader.get('dataset'), sampler=loader.get('sampler'), evaluator=metrics)
    return json.loads(json.dumps(_keep_data(found), default=str))


def _keep_data(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _keep_data(part) for name, part in value.items() if name not in (*HOW, *OUTPUTS) and part is not None}
    if isinstance(value, (list, tuple)):
        return [_keep_data(part) for part in value]
    return value.rstrip('/') if isinstance(value, str) else value


def find_first_difference(found: Any, expected: Any, folder: str | Path = '', path: str = '') -> str:
    """The first part in which two descriptions differ, as a clause; empty if there is none.

    Args:
        found: from :func:`describe_data`.
        expected: another one.
        folder: in which relative paths start; the current one if it is not known.
        path: of the parts inside a whole.
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        pairs = ((name, found.get(name), expected.get(name)) for name in dict.fromkeys([*found, *expected]))
        return next(filter(None, (find_first_difference(a, b, folder, join_name(path, name)) for name, a, b in pairs)), '')
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = ((str(number), a, b) for number, (a, b) in enumerate(zip(found, expected)))
        return next(filter(None, (find_first_difference(a, b, folder, join_name(path, name)) for name, a, b in pairs)), '')
    return '' if found == expected or _is_same_path(found, expected, folder) else f'{path}={found!r} instead of {expected!r}'


def _is_same_path(found: Any, expected: Any, folder: str | Path) -> bool:
    """Whether two texts are spellings of one path: relative and absolute, or through a link."""
    if not isinstance(found, str) or not isinstance(expected, str) or not found or not expected or '://' in found + expected:
        return False
    return os.path.realpath(os.path.join(folder, found)) == os.path.realpath(os.path.join(folder, expected))


def name_split(cfg: Mapping[str, Any]) -> str:
    """What the test set of a config is called: its ``split``, else the folder of its images, else its annotation file."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    return ' + '.join(dict.fromkeys(filter(None, map(_name_split, find_datasets(loader)))))


def _name_split(dataset: Mapping[str, Any]) -> str:
    if isinstance(dataset.get('split'), str) and dataset['split']:
        return dataset['split']
    prefix = dataset.get('data_prefix') or {}
    folder = next((prefix[name] for name in ('img_path', 'img') if prefix.get(name)), '') \
        if isinstance(prefix, Mapping) else str(prefix)
    file = dataset.get('ann_file')
    names = [*reversed(PurePath(folder).parts), PurePath(file).stem if isinstance(file, str) else '']
    return next((name for name in names if name.lower() not in NO_SPLITS), '')


def describe_evaluation(cfg: Config, dataset: Any, checkpoint: str, tta: bool = False) -> dict[str, Any]:
    """Describe an evaluation: number of images, split, data, the folder in which relative paths start, checkpoint.

    Args:
        cfg: the config.
        dataset: what was evaluated on.
        checkpoint: path or URL.
        tta: whether by test-time augmentation.
    """
    indices = [part['indices'] for part in find_datasets(cfg.get('test_dataloader')) if part.get('indices') is not None]
    return dict(images=len(dataset), split=name_split(cfg), subset=bool(indices), tta=tta, data=describe_data(cfg),
                folder=os.getcwd(), checkpoint=checkpoint if '://' in checkpoint else os.path.abspath(checkpoint))


def format_images(about: Mapping[str, Any]) -> str:
    """'200 images of val', and what is special about them."""
    count = about['images']
    text = f'{count} image{"s" * (count != 1)}' + (f' of {about["split"]}' if about.get('split') else '')
    special = [label for name, label in (('subset', 'a subset'), ('tta', 'test-time augmentation')) if about.get(name)]
    return text + (f' ({", ".join(special)})' if special else '')


def record_evaluation(folder: str | Path, metrics: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write what :func:`describe_evaluation` gave beside the metrics that mmengine wrote.

    Args:
        folder: of the session.
        metrics: what was measured.
        about: from :func:`describe_evaluation`.
    """
    content = dict(about,
                   metrics={name: value if isinstance(value, (int, float)) else str(value) for name, value in metrics.items()})
    write(Path(folder) / FILE, (json.dumps(content, indent=1) + '\n').encode(), 'The metrics are in the log.')
