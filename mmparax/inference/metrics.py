"""Metrics of an evaluation in the columns of the paper's tables, and the files of its predictions."""
import math
import os
from typing import Any, Dict, Mapping, Optional

from mmengine.config import Config, ConfigDict
from mmengine.registry import METRICS
from rich.table import Table

from mmparax.config.query import metrics_of, registered
from mmparax.utils.signatures import keyword_names
from mmparax.utils.tables import as_text

# Name in the toolbox, without its evaluator's prefix -> (column, factor that makes it percent).
COLUMNS = {
    'mIoU': ('mIoU', 1), 'bbox_mAP': ('AP^b', 100), 'bbox_mAP_50': ('AP^b_50', 100), 'bbox_mAP_75': ('AP^b_75', 100),
    'segm_mAP': ('AP^m', 100), 'segm_mAP_50': ('AP^m_50', 100), 'segm_mAP_75': ('AP^m_75', 100),
    'PQ': ('PQ', 1), 'SQ': ('SQ', 1), 'RQ': ('RQ', 1), 'top1': ('top-1', 1),
}


def paper_columns(metrics: Mapping[str, Any]) -> Dict[str, Optional[float]]:
    """Pick the metrics that the paper's tables have.

    Args:
        metrics: what mmengine returns: mIoU, PQ, SQ, RQ and top-1 in percent, AP between 0 and 1.

    Returns:
        Column -> percent, in the order of the tables; None for what could not be measured: AP is -1 where there is nothing
        to find, mIoU nan where no class occurs. Of two evaluators with one metric, the second's column names it in full.
    """
    columns: Dict[str, Optional[float]] = {}
    for short, (column, factor) in COLUMNS.items():
        for name, value in metrics.items():
            if name.rpartition('/')[2] == short:
                measured = not math.isnan(value) and (factor == 1 or value >= 0)
                columns[f'{column} ({name})' if column in columns else column] = float(value) * factor if measured else None
    return columns


def results_table(metrics: Mapping[str, Any]) -> str:
    """A text table of :func:`paper_columns` with one decimal, or an empty text if there are none."""
    columns = paper_columns(metrics)
    if not columns:
        return ''
    table = Table()
    for column in columns:
        table.add_column(column, justify='right', no_wrap=True)
    table.add_row(*('–' if value is None else f'{value:.1f}' for value in columns.values()))
    text = as_text(table, max(88, sum(len(column) + 3 for column in columns) + 1))
    return f'Results in percent:\n{text}'  # a title would be wrapped to the width of few columns


def write_predictions(cfg: Config, folder: str) -> None:
    """Let the evaluators of a config write the predictions of the test set to a folder.

    mmsegmentation's write label maps, mmdetection's JSON files in COCO's format (panoptic maps beside them); where no
    evaluator can, mmengine writes ``predictions.pkl``, a list with a dict for each image.

    Args:
        cfg: changed in place: ``test_evaluator``.
        folder: where to; it is made if it does not exist.
    """
    os.makedirs(folder, exist_ok=True)
    taken = 0
    metrics = [metric for _, metric in metrics_of(cfg, 'test_evaluator')]
    for metric in metrics:
        cls = registered(METRICS, metric, cfg)
        options = [] if cls is None else keyword_names(cls.__init__)
        if 'output_dir' in options:
            metric['output_dir'] = folder if not taken else os.path.join(folder, str(taken))
        elif 'outfile_prefix' in options:
            metric['outfile_prefix'] = os.path.join(folder, f'results_{taken}' if taken else 'results')
        else:
            continue
        taken += 1
    if not taken:
        cfg.test_evaluator = [*metrics, ConfigDict(type='DumpResults', out_file_path=os.path.join(folder, 'predictions.pkl'))]
