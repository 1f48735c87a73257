"""Parts of a config that are of the toolboxes: what a run could not build, or with which it would never end."""
import copy

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from helpers.scripts import load_tool
from mmparax.checks.components import check_components
from mmparax.checks.validation import list_monitored
from mmparax.config.files import load_config
from mmparax.doctor import Doctor
from mmparax.errors import ParameterError

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='RandomChoice', transforms=[[dict(type='RandomFlip', prob=0.5)]])]


def loader(sampler, **options):
    return dict(batch_size=2, num_workers=0, sampler=dict(type=sampler), collate_fn=dict(type='pseudo_collate'),
                dataset=dict(type='BaseSegDataset', pipeline=PIPELINE), **options)


def make():
    return dict(
        default_scope='mmseg',
        model=dict(type='EncoderDecoder', backbone=dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.LoRA')),
                   decode_head=dict(type='UPerHead', norm_cfg=dict(type='SyncBN'), loss_decode=dict(type='CrossEntropyLoss'))),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=100, val_interval=50), val_cfg=dict(type='ValLoop'),
        test_cfg=dict(type='TestLoop'), train_dataloader=loader('InfiniteSampler'), val_dataloader=loader('DefaultSampler'),
        test_dataloader=loader('DefaultSampler'), val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        test_evaluator=[dict(type='IoUMetric', iou_metrics=['mIoU'])
                        ], optim_wrapper=dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW', lr=1e-3),
                                              clip_grad=dict(max_norm=1.)), param_scheduler=[
                                                  dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=10),
                                                  dict(type='PolyLR', by_epoch=False, begin=10, end=100)
                                              ], default_hooks=dict(logger=dict(type='LoggerHook'), timer=None,
                                                                    checkpoint=dict(type='CheckpointHook', by_epoch=False)),
        custom_hooks=[dict(type='mmparax.PEFTHook'),
                      dict(type='EMAHook', momentum=1e-3,
                           priority='NORMAL')], visualizer=dict(type='SegLocalVisualizer', name='visualizer',
                                                                vis_backends=[dict(type='LocalVisBackend')]), log_level='INFO',
        randomness=dict(seed=1), env_cfg=dict(mp_cfg=dict(mp_start_method='fork')))


EPOCHS = dict(type='EpochBasedTrainLoop', max_epochs=10)
LINEAR = dict(type='LinearLR', by_epoch=False)
# what is changed -> (parameter, part of the sentence)
PROBLEMS = {
    'hook, unknown': ({'custom_hooks.1.type': 'EMAHok'}, 'custom_hooks.1.type', "Did you mean 'EMAHook'"),
    "hook, mmparax's, unknown": ({'custom_hooks.0.type': 'mmparax.PEFTHok'}, 'custom_hooks.0.type', "'mmparax.PEFTHook'"),
    'hook, no type': ({'custom_hooks': [dict(priority=1)]}, 'custom_hooks.0', 'it has no type'),
    'hook, None': ({'custom_hooks': [None]}, 'custom_hooks.0', 'it must be a dict'),
    'hook, a word': ({'custom_hooks': ['mmparax.PEFTHook']}, 'custom_hooks.0', 'it must be a dict'),
    'hook, option': ({'default_hooks.logger.intervall': 5}, 'default_hooks.logger.intervall', "Did you mean 'interval'"),
    'hook, option of what it builds': ({'custom_hooks.1.momentu': 1e-3}, 'custom_hooks.1.momentu', "Did you mean 'momentum'"),
    'hook, priority': ({'custom_hooks.1.priority': 'HIGHEST_EVER'}, 'custom_hooks.1.priority', "'VERY_LOW'"),
    'hook, twice': ({'custom_hooks': [dict(type='mmparax.PEFTHook')] * 2}, 'custom_hooks.1', 'custom_hooks.0 is a PEFTHook'),
    'scheduler, unknown': ({'param_scheduler.1.type': 'PolyL'}, 'param_scheduler.1.type', "Did you mean 'PolyLR'"),
    'scheduler, absent': ({'param_scheduler': [dict(type='StepLR')]}, 'param_scheduler.0.step_size', 'StepLR needs it'),
    'scheduler, absent too': ({'param_scheduler': dict(type='CosineRestartLR', periods=[5],
                                                       by_epoch=False)}, 'param_scheduler', 'eta_min'),
    'scheduler, option': ({'param_scheduler.1.powr': 2}, 'param_scheduler.1.powr', "Did you mean 'power'"),
    'scheduler, None': ({'param_scheduler': [None]}, 'param_scheduler.0', 'it must be a dict'),
    'scheduler, end': ({'param_scheduler.1.end': 10}, 'param_scheduler.1.end', 'above param_scheduler.1.begin=10'),
    'scheduler, negative end': ({'param_scheduler.1.end': -1}, 'param_scheduler.1.end', 'at least 0'),
    'scheduler, begin beyond': ({'param_scheduler': [dict(LINEAR, begin=100)]}, 'param_scheduler.0.begin', 'ends at 100'),
    'scheduler, zero factor': ({'param_scheduler': [dict(LINEAR, start_factor=0, end=10)]}, 'param_scheduler.0',
                               'ZeroDivisionError|Starting multiplicative factor'),
    'scheduler, one cycle': ({'param_scheduler': [dict(type='OneCycleLR', eta_max=1., total_steps=50,
                                                       by_epoch=False)]}, 'param_scheduler.0', 'total'),
    'scheduler, plateau': ({'param_scheduler': [dict(type='ReduceOnPlateauLR', monitor='mIoU',
                                                     by_epoch=False)]}, 'param_scheduler.0.by_epoch', 'acts after a validation'),
    'loop, unknown': ({'train_cfg.type': 'IterBasedTrainLop'}, 'train_cfg.type', "'IterBasedTrainLoop'"),
    'loop, length of another': ({'train_cfg.max_epochs': 5}, 'train_cfg.max_epochs', '_delete_=True'),
    'loop, iterations of an epoch loop': ({'train_cfg': dict(EPOCHS, max_iters=5)}, 'train_cfg.max_iters', '_delete_=True'),
    'loop of validation': ({'val_cfg.type': 'ValLop'}, 'val_cfg.type', "'ValLoop'"),
    'sampler, endless epoch': ({'train_cfg': EPOCHS}, 'train_dataloader.sampler.type', 'an epoch would never end'),
    'sampler, endless validation': ({'val_dataloader.sampler.type': 'InfiniteSampler'}, 'val_dataloader.sampler.type',
                                    'the validation would never end'),
    'sampler, endless test': ({'test_dataloader.sampler.type': 'InfiniteSampler'}, 'test_dataloader.sampler.type',
                              'the test would'),
    'sampler, unknown': ({'train_dataloader.sampler.type': 'InfinitSampler'}, 'train_dataloader.sampler.type',
                         "'InfiniteSampler'"),
    'sampler, option': ({'train_dataloader.sampler.shufle': True}, 'train_dataloader.sampler.shufle', "'shuffle'"),
    'batch sampler': ({'train_dataloader.batch_sampler': dict(type='AspectRatio')}, 'train_dataloader.batch_sampler.type', ''),
    'collate': ({'val_dataloader.collate_fn.type': 'pseudo_colate'}, 'val_dataloader.collate_fn.type', "'pseudo_collate'"),
    'loader, option': ({'val_dataloader.num_worker': 1}, 'val_dataloader.num_worker', "'num_workers'"),
    'optimizer, unknown': ({'optim_wrapper.optimizer.type': 'AdmW'}, 'optim_wrapper.optimizer.type', "'AdamW'"),
    'optimizer, none': ({'optim_wrapper': dict(type='OptimWrapper')}, 'optim_wrapper', 'it has no optimizer'),
    'optimizer, option': ({'optim_wrapper.optimizer.momentum': 0.9}, 'optim_wrapper.optimizer.momentum', 'AdamW has no option'),
    'optimizer, value': ({'optim_wrapper.optimizer.betas': (2., 1.)}, 'optim_wrapper.optimizer', 'Invalid beta'),
    'optimizer, no rate': ({'optim_wrapper.optimizer.lr': 0}, 'optim_wrapper.optimizer.lr', 'nothing is learned'),
    'constructor': ({'optim_wrapper.constructor': 'mmparax.OptimWrapperConstructr'}, 'optim_wrapper.constructor.type',
                    "'mmparax.OptimWrapperConstructor'"),
    'wrapper': ({'optim_wrapper.type': 'AmpOptimWraper'}, 'optim_wrapper.type', "'AmpOptimWrapper'"),
    'wrapper, option': ({'optim_wrapper.loss_scal': 1.}, 'optim_wrapper.loss_scal', "'loss_scale'"),
    'accumulation': ({'optim_wrapper.accumulative_counts': 101}, 'optim_wrapper.accumulative_counts', 'the run has 100'),
    'clipping, option': ({'optim_wrapper.clip_grad.max_nrm': 1}, 'optim_wrapper.clip_grad.max_nrm', "'max_norm'"),
    'clipping, limit': ({'optim_wrapper.clip_grad.max_norm': 0}, 'optim_wrapper.clip_grad.max_norm', 'above 0'),
    'clipping, no limit': ({'optim_wrapper.clip_grad': dict(norm_type=2)}, 'optim_wrapper.clip_grad.max_norm', 'needs it'),
    'metric, unknown': ({'val_evaluator.type': 'IoUMetrc'}, 'val_evaluator.type', "'IoUMetric'"),
    'metric, name': ({'val_evaluator.iou_metrics': ['mIuO']}, 'val_evaluator.iou_metrics', "'mDice'"),
    'metric, option': ({'val_evaluator.iou_metric': ['mIoU']}, 'val_evaluator.iou_metric', "'iou_metrics'"),
    'metric of the test': ({'test_evaluator.0.type': 'IoUMetrc'}, 'test_evaluator.0.type', "'IoUMetric'"),
    'visualizer': ({'visualizer.type': 'SegLocalVisualiser'}, 'visualizer.type', "'SegLocalVisualizer'"),
    'backend': ({'visualizer.vis_backends': [dict(type='TensorbordVisBackend')]}, 'visualizer.vis_backends.0.type',
                "'TensorboardVisBackend'"),
    'model': ({'model.type': 'EncoderDecodr'}, 'model.type', "'EncoderDecoder'"),
    'head': ({'model.decode_head.type': 'uperhead'}, 'model.decode_head.type', "'UPerHead'"),
    'loss': ({'model.decode_head.loss_decode.type': 'CrossEntropyLos'}, 'model.decode_head.loss_decode.type',
             "'CrossEntropyLoss'"),
    'norm': ({'model.decode_head.norm_cfg.type': 'SyncBM'}, 'model.decode_head.norm_cfg.type', "'SyncBN'"),
    'method': ({'model.backbone.adapter.type': 'mmparax.Lora'}, 'model.backbone.adapter.type', "'mmparax.LoRA'"),
    'transform': ({'train_dataloader.dataset.pipeline.0.type': 'LoadImagFromFile'}, 'train_dataloader.dataset.pipeline.0.type',
                  "'LoadImageFromFile'"),
    'transform inside': ({'train_dataloader.dataset.pipeline.1.transforms': [[dict(type='RandomFlp')]]},
                         'train_dataloader.dataset.pipeline.1.transforms.0.0.type', "'RandomFlip'"),
    'log level': ({'log_level': 'LOUD'}, 'log_level', "'INFO'"),
    'seed': ({'randomness.seed': 'one'}, 'randomness.seed', 'integer'),
    'start method': ({'env_cfg.mp_cfg.mp_start_method': 'frok'}, 'env_cfg.mp_cfg.mp_start_method', "'fork'"),
}
NOTES = {
    'never validated': ({'train_cfg.val_begin': 200}, 'train_cfg.val_begin=200 is beyond the run'),
    'never saved': ({'default_hooks.checkpoint.interval': 200,
                     'default_hooks.checkpoint.save_last': False}, 'no checkpoint is saved'),
}


@pytest.fixture(autouse=True)
def scope_of_its_own():
    yield
    DefaultScope._instance_dict.clear()


def change(changes):
    cfg = Config(copy.deepcopy(make()))
    for place, value in changes.items():  # as a file replaces it, not merged
        *owners, name = place.split('.')
        part = cfg._cfg_dict
        for owner in owners:
            part = part[int(owner) if isinstance(part, list) else owner]
        part[name] = value
    return Config(cfg.to_dict())


@pytest.mark.parametrize('case', PROBLEMS)
def test_what_no_run_can_build_is_named(case):
    changes, parameter, text = PROBLEMS[case]
    with pytest.raises(ParameterError) as caught:
        check_components(change(changes))
    assert caught.value.parameter.startswith(parameter), caught.value
    assert any(part in str(caught.value) for part in text.split('|')), caught.value
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('case', NOTES)
def test_what_does_nothing_is_said(case):
    changes, text = NOTES[case]
    notes = check_components(change(changes))
    assert len(notes) == 1 and text in notes[0]


def test_a_plateau_watches_a_metric_of_the_validation():
    cfg = change({'param_scheduler': [dict(type='ReduceOnPlateauLR', monitor='mIuO')]})
    assert check_components(cfg) == []
    assert list(list_monitored(cfg)) == [('param_scheduler.0.monitor', 'mIuO')]


def test_a_part_of_another_package_may_have_types_of_its_own():
    from mmseg.registry import MODELS

    class Foreign:
        pass

    Foreign.__module__ = 'somebody.models'
    MODELS.register_module(name='Foreign', module=Foreign, force=True)
    assert check_components(change({'model.decode_head': dict(type='Foreign', cell=dict(type='OfItsOwn'))})) == []


def test_the_doctor_and_the_training_stop_at_the_same(tmp_path, monkeypatch, capsys):
    """Before anything is built or written."""
    path = tmp_path / 'mine.py'
    path.write_text(Config(make()).pretty_text)
    arguments = [str(path), '--cfg-options', 'custom_hooks.1.type=EMAHok']
    problem = "custom_hooks.1.type='EMAHok' is not allowed"
    finding = Doctor(load_config(str(path), {'custom_hooks.1.type': 'EMAHok'}))
    with pytest.raises(ParameterError, match=problem):
        finding.check_config()
    monkeypatch.setattr('sys.argv', ['train.py', *arguments, '--work-dir', str(tmp_path / 'work')])
    with pytest.raises(SystemExit) as caught:
        load_tool('train.py').main()
    assert problem in str(caught.value) and not (tmp_path / 'work').exists()


def test_an_option_of_the_command_line_without_a_name(monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['train.py', 'mine.py', '--cfg-options', '=3'])
    with pytest.raises(SystemExit) as caught:
        load_tool('train.py').main()
    assert caught.value.code == 2 and "'=3': a part of the name in front of = is empty" in capsys.readouterr().err
