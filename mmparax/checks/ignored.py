"""Which values of masks the losses and metrics of a config leave out, and whether these are classes of the data."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmparax.config.query import find_metrics, walk_configs
from mmparax.datasets.masks.numbering import IGNORED
from mmparax.utils.problems import ProblemList


def find_ignored_values(cfg: Mapping[str, Any], loader: str) -> list[int]:
    """The values that every head's loss, or every metric, leaves out."""
    values = [{value} for _, value in _list_values(cfg, loader)]
    return sorted(set.intersection(*values)) if values else [IGNORED]


def _list_values(cfg: Mapping[str, Any], loader: str) -> Iterator[tuple[str, int]]:
    """(place of the option, value) of each head, or of each metric."""
    if loader.startswith('train'):
        for name, part in walk_configs(cfg.get('model') or {}):
            if name.split('.')[0] in ('decode_head', 'auxiliary_head') and 'num_classes' in part:
                yield f'model.{name}.ignore_index', part.get('ignore_index', IGNORED)
    else:
        for name, metric in find_metrics(cfg, loader.replace('dataloader', 'evaluator')):
            yield f'{name}.ignore_index', metric.get('ignore_index', IGNORED)


def judge_ignored(cfg: Mapping[str, Any], loader: str, classes: Sequence[str]) -> ProblemList:
    """Say which classes a loss or metric leaves out, and that a metric of a single class says nothing.

    Args:
        cfg: a config.
        loader: such as ``'val_dataloader'``.
        classes: names of the classes of a data set whose masks it gives.
    """
    problems, training = ProblemList(), loader.startswith('train')
    for place, value in _list_values(cfg, loader):
        if isinstance(value, int) and 0 <= value < len(classes):
            problems.add(
                'class(es) that a loss ignores' if training else 'class(es) that a metric ignores',
                f'{place}={value} is {classes[value]!r}',
                f'Nothing is learnt of it: set {IGNORED}, or take it out of metainfo.classes.' if training else
                'Its pixels are left out, whatever is predicted for them, and its own IoU, 0 or NaN, counts in the mean: '
                f'set {IGNORED}, or take it out of metainfo.classes.', warning=True)
    if len(classes) == 1 and not training:
        problems.add('metric(s) over a single class', repr(classes[0]),
                     'Every pixel is predicted as this class, so its IoU is 100 whatever is learnt: name the rest as a class.',
                     warning=True)
    return problems
