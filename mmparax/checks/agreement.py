"""Whether the data sets of a run agree with each other, with their evaluators and with the file that training starts from."""
from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader

from mmparax.checks.built import BuiltDataset
from mmparax.config.query import find_metrics, list_dataset_paths
from mmparax.utils.problems import ProblemList
from mmparax.utils.text import join_names
from mmparax.weights.adapter_file import get_description

OTHER_CLASSES = 'data set(s) with other classes than {}'
RENAMED = 'data set(s) whose classes have other names than those of {}'
OTHER_ZERO = 'data set(s) with another reduce_zero_label than {}'
OTHER_FILE = 'evaluator(s) that read a file of other images than their data set'
OTHER_COPY = 'evaluator(s) that read another file than their data set'


def compare_datasets(built: Sequence[BuiltDataset]) -> ProblemList:
    """Compare the classes of all data sets of a run with those of the first, which is trained on if it has names of classes.

    Args:
        built: data sets of the training, validation and test dataloaders.
    """
    problems = ProblemList()
    known = [entry for entry in built if entry.classes]
    if not known:
        return problems
    first, classes = known[0], list(known[0].classes or ())
    whose = 'the training data' if first.loader.startswith('train') else first.place
    for entry in known[1:]:
        own = list(entry.classes or ())
        if len(own) != len(classes) or own != classes and set(own) == set(classes):
            problems.add(_of_tests(OTHER_CLASSES.format(whose), entry.loader),
                         _describe_difference(entry, own, first, classes, whose), _find_remedy(entry, own, first, classes),
                         warning=_is_test(entry.loader))
        elif own != classes:
            other = next((name, mine) for name, mine in zip(classes, own) if name != mine)
            problems.add(RENAMED.format(whose), f'{entry.place}: {other[1]!r} where {first.place} has {other[0]!r}',
                         'The numbers are the same: metrics and pictures take the names of the data that they are made on.',
                         warning=True)
        reduced = [getattr(part.dataset, 'reduce_zero_label', None) for part in (first, entry)]
        if None not in reduced and reduced[0] != reduced[1]:
            problems.add(_of_tests(OTHER_ZERO.format(whose),
                                   entry.loader), f'{entry.place}: {reduced[1]}, and {first.place}: {reduced[0]}',
                         'The same values would be other classes: set it to one value in all.', warning=_is_test(entry.loader))
    return problems


def _is_test(loader: str) -> bool:
    """Whether training goes on without these data."""
    return loader.startswith('test')


def _of_tests(kind: str, loader: str) -> str:
    return f'test {kind}' if _is_test(loader) else kind


def _describe_difference(entry: BuiltDataset, own: list[str], first: BuiltDataset, classes: list[str], whose: str) -> str:
    text = f'{entry.place} has {len(own)}, {first.place} has {len(classes)}'
    lacking, more = [name for name in classes if name not in own], [name for name in own if name not in classes]
    if lacking:
        text += f'; lacking: {join_names(map(repr, lacking), 5)}'
    if more:
        text += f'; in addition: {join_names(map(repr, more), 5)}'
    if not lacking and not more:
        other = next((name, mine) for name, mine in zip(classes, own) if name != mine)
        text += f' in another order: {other[1]!r} where {whose} {"has" if whose == first.place else "have"} {other[0]!r}'
    return text


def _find_remedy(entry: BuiltDataset, own: list[str], first: BuiltDataset, classes: list[str]) -> str:
    if hasattr(entry.dataset, 'folder_to_idx') and hasattr(first.dataset, 'folder_to_idx'):
        names = sorted({*own, *classes})
        return (f"Make an empty folder for each class that has none, or use type='mmparax.ClassFolders' with metainfo=dict("
                f'classes={tuple(names)!r}) in both: there a folder may be missing.')
    return 'Set metainfo=dict(classes=...) to the same names in the same order in all.'


# ---- evaluators ----


def compare_evaluators(cfg: Mapping[str, Any], loaders: Sequence[str]) -> ProblemList:
    """Compare the annotation files of evaluators with those of their data sets."""
    problems = ProblemList()
    for loader in loaders:
        dataset = (cfg.get(loader) or {}).get('dataset')
        if not isinstance(dataset, Mapping) or 'dataset' in dataset or 'datasets' in dataset:
            continue
        own = dict(list_dataset_paths(dataset))
        for name, metric in find_metrics(cfg, loader.replace('dataloader', 'evaluator')):
            for option, parameter in (('ann_file', 'ann_file'), ('seg_prefix', 'data_prefix.seg')):
                given, expected = metric.get(option), own.get(parameter)
                if not isinstance(given, str) or not expected or not os.path.exists(given) or not os.path.exists(expected):
                    continue
                if not os.path.samefile(given, expected):
                    missing = _count_missing_images(given, expected) if option == 'ann_file' else None
                    text = f'{name}.{option}={given!r}, and {loader}.dataset reads {expected!r}'
                    text += f'; {missing} of its images are not in that file' if missing else ''
                    problems.add(_of_tests(OTHER_FILE if missing else OTHER_COPY, loader), text,
                                 'Metrics of a file and predictions for another one mean nothing: set both to '
                                 'the same.', warning=not missing or _is_test(loader))
    return problems


def _count_missing_images(given: str, expected: str) -> int:
    """How many images of one annotation file the other does not have under the same number."""
    found = []
    for path in (given, expected):
        try:
            with open(path, encoding='utf-8-sig') as file:
                found.append({(image['id'], image.get('file_name')) for image in json.load(file)['images']})
        except (OSError, ValueError, KeyError, TypeError):
            return 1
    return len(found[1] - found[0])


# ---- the file that training starts from ----


def compare_with_checkpoint(cfg: Mapping[str, Any], classes: Sequence[str] | None) -> ProblemList:
    """Compare the order of the classes with that of ``load_from``, whose head is loaded if it has as many.

    Args:
        cfg: a config.
        classes: names of the classes of the training data.
    """
    problems, path = ProblemList(), cfg.get('load_from')
    if not path or '://' in path or not os.path.isfile(path) or not classes:
        return problems
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu')
    except Exception:  # said by the check of load_from
        return problems
    meta = (checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None) or {}
    description = get_description(checkpoint) or {}
    if description and not description['head_included']:
        return problems
    about = meta.get('dataset_meta') or description.get('dataset_meta') or {}
    given = list((about or {}).get('classes') or ())
    if len(given) != len(classes) or given == list(classes):
        return problems
    number, other, own = next((number, *pair) for number, pair in enumerate(zip(given, classes)) if pair[0] != pair[1])
    problems.add(
        'checkpoint(s) whose head has its classes in another order than the data'
        if set(given) == set(classes) else 'checkpoint(s) whose head is for classes of other names',
        f'load_from={path!r}: class {number} is {other!r} there, and {own!r} in the data',
        'The head is loaded, as it has as many classes, and must learn them anew: put the classes in the order of the '
        'file to go on from what it knows.' if set(given) == set(classes) else '', warning=True)
    return problems
