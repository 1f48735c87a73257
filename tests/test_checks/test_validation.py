"""Metrics by which a run decides, and those that are no numbers."""
import numpy as np
import pytest

from mmparax.checks.validation import are_all_nan, check_monitored, describe_metrics, redirect_outputs

METRICS = {'mIoU': np.float32(30.123456), 'aAcc': 60.}


@pytest.mark.parametrize('cfg, place', [
    (dict(default_hooks=dict(checkpoint=dict(save_best='mDice'))), 'default_hooks.checkpoint.save_best'),
    (dict(default_hooks=dict(checkpoint=dict(save_best=['mIoU', 'coco/bbox_mAP']))), 'default_hooks.checkpoint.save_best'),
    (dict(custom_hooks=[dict(type='X'), dict(type='EarlyStoppingHook', monitor='loss')]), 'custom_hooks.1.monitor'),
])
def test_metrics_that_are_not_computed_are_named(cfg, place):
    with pytest.raises(ValueError, match='is not allowed: the validation computes aAcc, mIoU. Choose one of them') as refused:
        check_monitored(cfg, METRICS)
    assert refused.value.parameter == place


@pytest.mark.parametrize('best', ['auto', 'mIoU', ['aAcc', 'mIoU'], None])
def test_the_others_pass(best):
    check_monitored(dict(default_hooks=dict(checkpoint=dict(save_best=best))), METRICS)
    check_monitored({}, {})
    # A detector that finds nothing yet: its metrics are not computed, and their names not known.
    check_monitored(dict(default_hooks=dict(checkpoint=dict(save_best='coco/bbox_mAP'))), {})


def test_numbers():
    assert describe_metrics(METRICS) == 'mIoU 30.12, aAcc 60'
    assert are_all_nan({'mIoU': np.float64('nan')}) and not are_all_nan(METRICS) and not are_all_nan({})


@pytest.mark.parametrize(
    'given, expected',
    [
        (dict(type='mmdet.CocoMetric', outfile_prefix='results/run',
              ann_file='a.json'), dict(type='mmdet.CocoMetric', ann_file='a.json')),  # it makes a folder of its own
        (dict(type='mmdet.CocoPanopticMetric', outfile_prefix='results/run'), dict(type='mmdet.CocoPanopticMetric')),
        (dict(type='mmdet.CocoMetric', outfile_prefix='results/run',
              format_only=True), dict(type='mmdet.CocoMetric', outfile_prefix='/x/outfile_prefix', format_only=True)),
        (dict(type='mmdet.CityScapesMetric',
              outfile_prefix='results/run'), dict(type='mmdet.CityScapesMetric', outfile_prefix='/x/outfile_prefix')),
        (dict(type='mmseg.IoUMetric', output_dir=None), dict(type='mmseg.IoUMetric', output_dir=None)),
    ])
def test_files_of_metrics_go_elsewhere(given, expected):
    assert redirect_outputs([given], '/x') == [expected]
