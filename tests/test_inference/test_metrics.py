"""Metrics in the columns of the paper's tables, and files with the predictions."""
import pytest
from mmengine.config import Config

from mmparax.inference.metrics import format_results_table, select_class_metrics, select_paper_metrics, write_predictions

METRICS = {  # what mmengine returns -> what is shown
    'segmentation': (dict(aAcc=81.2, mIoU=50.27, mAcc=60.), {'mIoU': '50.3'}),
    'detection': ({f'coco/{kind}_{item}': value for kind in ('segm', 'bbox') for item, value in
                   (('mAP', 0.4567), ('mAP_50', 0.6), ('mAP_75', 0.481), ('mAP_s', 0.2), ('mAP_m', -1.), ('mAP_l', 0.6))},
                  {'AP^b': '45.7', 'AP^b_50': '60.0', 'AP^b_75': '48.1', 'AP^m': '45.7', 'AP^m_50': '60.0', 'AP^m_75': '48.1'}),
    'panoptic': ({'coco_panoptic/PQ': 41.26, 'coco_panoptic/SQ': 78.04, 'coco_panoptic/RQ': 50., 'coco_panoptic/PQ_th': 47.},
                 {'PQ': '41.3', 'SQ': '78.0', 'RQ': '50.0'}),
    'classification': ({'accuracy/top1': 93.749, 'accuracy/top5': 99.}, {'top-1': '93.7'}),
    'nothing to find': ({'coco/bbox_mAP': -1., 'coco/bbox_mAP_50': 0., 'mIoU': float('nan')},
                        {'mIoU': '–', 'AP^b': '–', 'AP^b_50': '0.0'}),
    'several evaluators': ({'coco_panoptic/PQ': 41., 'coco/segm_mAP': 0.4}, {'AP^m': '40.0', 'PQ': '41.0'}),
    'boxes of Pascal VOC': ({'pascal_voc/mAP': 0.5567, 'pascal_voc/AP50': 0.7, 'pascal_voc/AP75': 0.41},
                            {'mAP': '55.7', 'AP50': '70.0', 'AP75': '41.0'}),
    'two of them': ({'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.5, 'other/mAP': 0.25, 'other/AP50': 0.25},
                    {'mAP': '50.0', 'AP50': '50.0', 'mAP (other/mAP)': '25.0', 'AP50 (other/AP50)': '25.0'}),
    'one metric twice': ({'coco/bbox_mAP': 0.5, 'small/bbox_mAP': 0.25}, {'AP^b': '50.0', 'AP^b (small/bbox_mAP)': '25.0'}),
}


@pytest.mark.parametrize('case', METRICS)
def test_columns_of_the_tables(case):
    metrics, expected = METRICS[case]
    assert list(select_paper_metrics(metrics)) == list(expected)
    lines = format_results_table(metrics).splitlines()
    header, row = ([cell.strip() for cell in line.strip('┃│').replace('┃', '│').split('│')] for line in (lines[2], lines[4]))
    assert dict(zip(header, row)) == expected


def test_other_metrics_have_no_table():
    for metrics in ({}, {'mDice': 3., 'accuracy/top5': 1.}, {'multi-label/mAP': 81.2}):
        assert format_results_table(metrics) == ''


CLASSES = {'coco/bbox_mAP': 0.4, 'coco/red/round_precision': 0.55, 'coco/pear_precision': float('nan')}


@pytest.mark.parametrize('metrics, column', [(CLASSES, 'AP^b'), ({**CLASSES, 'coco/segm_mAP': 0.3}, 'AP^m')],
                         ids=['boxes', 'masks'])
def test_ap_of_each_class(metrics, column):
    assert select_class_metrics(metrics) == (column, {'red/round': pytest.approx(55.), 'pear': None})
    rows = [[cell.strip() for cell in line.strip('┃│').replace('┃', '│').split('│')]
            for line in format_results_table(metrics).partition('Each class:')[2].splitlines()]
    assert [column] == [row[1] for row in rows if row[0] == 'class'] and ['red/round', '55.0'] in rows and ['pear', '–'] in rows
    assert select_class_metrics({'coco/bbox_mAP': 0.4}) == ('', {}) and 'class' not in format_results_table(
        {'coco/bbox_mAP': 0.4})


def test_a_list_of_evaluators(tmp_path):
    """Each that can writes its own files."""

    def cfg(*kinds):
        return Config(dict(default_scope='mmdet', test_evaluator=[dict(type=kind) for kind in kinds]))

    several = cfg('CocoPanopticMetric', 'mmpretrain.Accuracy', 'CocoMetric', 'mmseg.IoUMetric')
    write_predictions(several, str(tmp_path / 'out'))
    assert [dict(metric, type='') for metric in several.test_evaluator] == [
        dict(type='', outfile_prefix=str(tmp_path / 'out' / 'results')),
        dict(type=''),
        dict(type='', outfile_prefix=str(tmp_path / 'out' / 'results_1')),
        dict(type='', output_dir=str(tmp_path / 'out' / '2'))
    ]
    assert (tmp_path / 'out').is_dir()
    none = cfg('mmpretrain.Accuracy', 'VOCMetric')
    write_predictions(none, str(tmp_path / 'out'))
    assert [metric.type for metric in none.test_evaluator] == ['mmpretrain.Accuracy', 'VOCMetric', 'DumpResults']
