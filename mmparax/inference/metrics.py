"""Metrics of an evaluation in the columns of the paper's tables, and files with the predictions."""
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import METRICS
from rich.table import Column, Table
from rich.text import Text

from mmparax.config.query import find_class, find_metrics
from mmparax.utils.signatures import list_keywords
from mmparax.utils.tables import render_table

# Name in the toolbox, without its evaluator's prefix -> (column, factor that makes it percent).
COLUMNS = {
    'mIoU': ('mIoU', 1),
    'bbox_mAP': ('AP^b', 100),
    'bbox_mAP_50': ('AP^b_50', 100),
    'bbox_mAP_75': ('AP^b_75', 100),
    'segm_mAP': ('AP^m', 100),
    'segm_mAP_50': ('AP^m_50', 100),
    'segm_mAP_75': ('AP^m_75', 100),
    'PQ': ('PQ', 1),
    'SQ': ('SQ', 1),
    'RQ': ('RQ', 1),
    'top1': ('top-1', 1),
}
# Parts of a COCO metric whose AP of each class has no other name than CLASS_precision, and their columns.
COCO_PARTS = {'bbox_mAP': 'AP^b', 'segm_mAP': 'AP^m'}
CLASS_SUFFIX = '_precision'


def select_paper_metrics(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Select the metrics that the paper's tables have, and those of Pascal VOC, in percent.

    Args:
        metrics: what mmengine returns: mIoU, PQ, SQ, RQ and top-1 in percent, AP and VOC's mAP between 0 and 1.

    Returns:
        Column -> percent, in the order of the tables. None for what could not be measured: AP is -1 where there is nothing
        to find, mIoU is nan where no class occurs. If two evaluators give one metric, the second's column has its full name.
    """
    columns: dict[str, float | None] = {}
    for wanted, (column, factor) in {**COLUMNS, **_find_voc_columns(metrics)}.items():
        for name, value in metrics.items():
            if wanted in (name, name.rpartition('/')[2]):
                measured = not math.isnan(value) and (factor == 1 or value >= 0)
                columns[f'{column} ({name})' if column in columns else column] = float(value) * factor if measured else None
    return columns


def is_in_percent(column: str) -> bool:
    """Whether a column of :func:`select_paper_metrics` is called so."""
    return any(column == known for known, _ in COLUMNS.values()) or re.fullmatch(r'mAP|AP\d+', column) is not None


def _find_voc_columns(metrics: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """The entries of :data:`COLUMNS`, by whole names, for metrics in the manner of Pascal VOC: mAP beside AP50 and the like.

    mmpretrain's mAP of several labels stands alone, and is in percent.
    """
    found: dict[str, tuple[str, int]] = {}
    for name in metrics:
        prefix, slash, short = name.rpartition('/')
        aps = [other for other in metrics if re.fullmatch(re.escape(prefix + slash) + r'AP\d+', other)]
        if short == 'mAP' and aps:
            found.update({other: (other.rpartition('/')[2], 100) for other in (name, *aps)})
    return found


def select_class_metrics(metrics: Mapping[str, Any]) -> tuple[str, dict[str, float | None]]:
    """Select the AP of each class, which ``CocoMetric(classwise=True)`` gives.

    Args:
        metrics: what mmengine returns. Boxes and masks have the same names there: those of the last metric are left.

    Returns:
        Column, and class -> percent, None where there is nothing to find. ('', {}) if there are none.
    """
    parts = [(name[:-len(part)], column) for name in metrics for part, column in COCO_PARTS.items() if name.endswith(part)]
    for prefix, column in reversed(parts):
        found = {
            name[len(prefix):-len(CLASS_SUFFIX)]: None if math.isnan(value) else 100 * float(value)
            for name, value in metrics.items() if name.startswith(prefix) and name.endswith(CLASS_SUFFIX)
        }
        if found:
            return column, found
    return '', {}


def format_results_table(metrics: Mapping[str, Any], images: str = '') -> str:
    """Format :func:`select_paper_metrics`, then :func:`select_class_metrics`, as text tables with one decimal.

    An empty text if there are none.

    Args:
        metrics: what mmengine returns.
        images: on what they were measured, such as ``'200 images of val'``.
    """
    columns = select_paper_metrics(metrics)
    if not columns:
        return ''
    table = Table()
    for column in columns:
        table.add_column(column, justify='right', no_wrap=True)
    table.add_row(*map(_format_percent, columns.values()))
    text = render_table(table, max(88, sum(len(column) + 3 for column in columns) + 1))
    text = f'Results in percent{f" on {images}" * bool(images)}:\n{text}'  # a title would be wrapped to the width of few columns
    column, classes = select_class_metrics(metrics)
    if classes:
        table = Table('class', Column(column, justify='right'))
        for name, value in classes.items():
            table.add_row(Text(name), _format_percent(value))
        text += f'\nEach class:\n{render_table(table, 88)}'
    return text


def _format_percent(value: float | None) -> str:
    return '–' if value is None else f'{value:.1f}'


def write_predictions(cfg: Config, folder: str) -> None:
    """Let the evaluators of a config write the predictions of the test set into a folder.

    mmsegmentation's evaluators write label maps, mmdetection's JSON files in COCO's format (with panoptic maps beside them).
    If no evaluator can, mmengine writes ``predictions.pkl``, a list with a dict for each image.

    Args:
        cfg: the config; its ``test_evaluator`` is changed in place.
        folder: where to write; it is made if it does not exist.
    """
    os.makedirs(folder, exist_ok=True)
    num_writers = 0
    metrics = [metric for _, metric in find_metrics(cfg, 'test_evaluator')]
    for metric in metrics:
        cls = find_class(METRICS, metric, cfg)
        options = [] if cls is None else list_keywords(cls)
        if 'output_dir' in options:
            metric['output_dir'] = folder if not num_writers else os.path.join(folder, str(num_writers))
        elif 'outfile_prefix' in options:
            metric['outfile_prefix'] = os.path.join(folder, f'results_{num_writers}' if num_writers else 'results')
        else:
            continue
        num_writers += 1
    if not num_writers:
        cfg.test_evaluator = [*metrics, ConfigDict(type='DumpResults', out_file_path=os.path.join(folder, 'predictions.pkl'))]
