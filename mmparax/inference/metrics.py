"""Metrics of an evaluation in the columns of the paper's tables, and files with the predictions."""
import math
import os
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import METRICS
from rich.table import Table

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


def select_paper_metrics(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Select the metrics that the paper's tables have, in percent.

    Args:
        metrics: what mmengine returns: mIoU, PQ, SQ, RQ and top-1 in percent, AP between 0 and 1.

    Returns:
        Column -> percent, in the order of the tables. None for what could not be measured: AP is -1 where there is nothing
        to find, mIoU is nan where no class occurs. If two evaluators give one metric, the second's column has its full name.
    """
    columns: dict[str, float | None] = {}
    for short, (column, factor) in COLUMNS.items():
        for name, value in metrics.items():
            if name.rpartition('/')[2] == short:
                measured = not math.isnan(value) and (factor == 1 or value >= 0)
                columns[f'{column} ({name})' if column in columns else column] = float(value) * factor if measured else None
    return columns


def format_results_table(metrics: Mapping[str, Any], images: str = '') -> str:
    """Format :func:`select_paper_metrics` as a text table with one decimal; an empty text if there are none.

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
    table.add_row(*('–' if value is None else f'{value:.1f}' for value in columns.values()))
    text = render_table(table, max(88, sum(len(column) + 3 for column in columns) + 1))
    return f'Results in percent{f" on {images}" * bool(images)}:\n{text}'  # a title would be wrapped to the width of few columns


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
