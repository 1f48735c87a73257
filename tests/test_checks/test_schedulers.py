"""Schedulers of the learning rate beside the length of a run."""
import pytest

from mmparax.checks.schedulers import describe_schedulers

ITERATIONS, EPOCHS = dict(type='IterBasedTrainLoop', max_iters=100), dict(type='EpochBasedTrainLoop', max_epochs=10)


def linear(**options):
    return dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, **options)


def poly(**options):
    return dict(type='PolyLR', power=1., by_epoch=False, **options)


CASES = {  # loop, schedulers -> parts of the sentences; a run of 100 iterations, 10 an epoch
    'fits': (ITERATIONS, [linear(end=10), poly(begin=10, end=100)], []),
    'longer than the run': (ITERATIONS, [poly(end=200)], []),
    'without an end': (ITERATIONS, [dict(type='MultiStepLR', milestones=[50], by_epoch=False)], []),
    'run lengthened': (ITERATIONS, [linear(end=10), poly(begin=10, end=60)],
                       ['param_scheduler.1 (PolyLR) ends at iteration 60 of 100 and leaves a learning rate of 0: the last 40']),
    'something is left': (ITERATIONS, [poly(end=60, eta_min=1e-5)], []),
    'another goes on': (ITERATIONS, [poly(end=60), poly(begin=60, end=100)], []),
    'cosine': (ITERATIONS, [dict(type='CosineAnnealingLR', T_max=60, by_epoch=False)], ['falls until iteration 60 (T_max) and']),
    'linear to nothing': (ITERATIONS, [dict(type='LinearLR', start_factor=1., end_factor=0., by_epoch=False, end=50)],
                          ['ends at iteration 50 of 100']),
    'warm-up alone':
    (ITERATIONS, [linear(end=500)], ['before its warm-up does (param_scheduler.0, LinearLR, until iteration 500)']),
    'epochs in a run by iterations': (ITERATIONS, [dict(type='PolyLR', end=10)], ['param_scheduler.0 (PolyLR) counts epochs']),
    'epochs': (EPOCHS, [dict(type='LinearLR', start_factor=0.1, end=2), dict(type='PolyLR', begin=2, end=10)], []),
    'epochs, lengthened': (EPOCHS, [dict(type='PolyLR', end=6)], ['ends at iteration 60 of 100']),
    'epochs, warm-up': (EPOCHS, [linear(end=500)], ['before its warm-up does']),
    'converted': (EPOCHS, [dict(type='CosineAnnealingLR', T_max=10, end=10, convert_to_iter_based=True)], []),
    'one': (ITERATIONS, poly(end=60), ['param_scheduler (PolyLR) ends at iteration 60']),
    'none': (ITERATIONS, None, []),
    'momentum': (ITERATIONS, [dict(type='PolyMomentum', end=10, by_epoch=False)], []),
    'several optimizers': (ITERATIONS, dict(a=[poly(end=60)], b=[poly(end=100)]), ['param_scheduler.a.0 (PolyLR) ends']),
}


@pytest.mark.parametrize('case', CASES)
def test_what_is_said(case):
    loop, schedulers, parts = CASES[case]
    found = describe_schedulers(dict(train_cfg=loop, param_scheduler=schedulers), 100, 10)
    assert len(found) == len(parts)
    assert all(part in sentence for part, sentence in zip(parts, found))
