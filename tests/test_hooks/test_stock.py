"""Hooks of mmengine in an inherited config become those of mmparax, so that a run from it writes small checkpoints."""
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import EMAHook as MMEngineEMAHook
from mmengine.registry import init_default_scope

import mmparax
from helpers.cases import build as build_backbone
from helpers.runs import SHALLOW, config, saved
from mmparax.cli import build_runner
from mmparax.errors import ParameterError
from mmparax.hooks import CheckpointHook, EMAHook, PEFTHook
from mmparax.hooks.stock import holds_adapted_backbone, replace_stock_hooks

BACKBONE = dict(type='mmparax.AdaptedSwin')


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp('base') / 'base.pth'
    torch.manual_seed(5)
    torch.save(build_backbone('frozen', **SHALLOW['swin']).state_dict(), path)
    return str(path)


def replace(default_hooks=None, custom_hooks=None, scope='mmseg'):
    cfg = Config(dict(default_scope=scope, model=dict(backbone=BACKBONE)))
    cfg.merge_from_dict(
        {name: hooks for name, hooks in (('default_hooks', default_hooks), ('custom_hooks', custom_hooks)) if hooks is not None})
    init_default_scope(scope)
    sentences = replace_stock_hooks(cfg)
    return cfg, sentences


@pytest.mark.parametrize('checkpoint', ['named', 'absent'])
def test_a_run_from_stock_hooks_writes_small_checkpoints(checkpoint, base, tmp_path):
    cfg = config(tmp_path, base_checkpoint=base, iterations=2, val=False)
    stock = dict(type='CheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=1)
    cfg.default_hooks = dict(checkpoint=stock) if checkpoint == 'named' else {}
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.3, priority='ABOVE_NORMAL')]
    if checkpoint == 'absent':
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
        cfg.train_dataloader.sampler.type = 'DefaultSampler'
    init_default_scope('mmseg')
    runner = build_runner(cfg)
    kinds = [type(hook) for hook in runner.hooks]
    assert kinds[0] is PEFTHook and {CheckpointHook, EMAHook} <= set(kinds)
    assert MMEngineCheckpointHook not in kinds and MMEngineEMAHook not in kinds
    runner.train()
    content, model = saved(tmp_path), runner.model
    frozen = {f'backbone.{name}' for name in model.backbone.frozen_names()}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert frozen and set(content['state_dict']) == set(model.state_dict()) - frozen
    assert {name for name in content['ema_state_dict'] if name != 'steps'} == {f'module.{name}' for name in trainable}
    assert content['meta']['mmparax']['fingerprint']


def test_their_options_are_kept_and_the_log_says_it(base, tmp_path, monkeypatch):
    cfg = config(tmp_path, base_checkpoint=base, val=False, hooks=[dict(type='EMAHook', momentum=0.3, interval=2, begin_iter=1)])
    cfg.default_hooks.checkpoint.update(type='CheckpointHook', save_optimizer=False)
    lines = []
    monkeypatch.setattr('mmengine.logging.MMLogger.info', lambda self, text, *args: lines.append(str(text)), raising=False)
    init_default_scope('mmseg')
    runner = build_runner(cfg)
    ours = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    assert len(ours) == 1 and ours[0].interval == 3 and not ours[0].save_optimizer and ours[0].max_keep_ckpts == 1
    averages, = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
    assert (averages.momentum, averages.interval, averages.begin_iter) == (0.3, 2, 1)
    for start in ("default_hooks.checkpoint is mmparax.CheckpointHook in place of mmengine's",
                  "custom_hooks[1] is mmparax.EMAHook in place of mmengine's"):
        assert sum(line.startswith(start) for line in lines) == 1


@pytest.mark.parametrize('given, expected',
                         [(dict(type='CheckpointHook', interval=5), dict(type='mmparax.CheckpointHook', interval=5)),
                          (dict(type='mmengine.CheckpointHook', _scope_='mmengine'), dict(type='mmparax.CheckpointHook')),
                          (dict(type='mmparax.CheckpointHook', save='all'), None),
                          (None, None)], ids=['stock', 'scoped', 'ours', 'none'])
def test_the_checkpoint_hook(given, expected):
    cfg, sentences = replace(default_hooks=dict(checkpoint=given))
    assert cfg.default_hooks.checkpoint == (expected or given) and len(sentences) == (expected is not None)


@pytest.mark.parametrize('scope', ['mmseg', 'mmdet', 'mmpretrain'])
def test_an_average_with_default_options_is_replaced(scope):
    """mmpretrain has a hook of its own under the name."""
    options = dict(ema_type='ExponentialMovingAverage', strict_load=True, momentum=0.1, priority='ABOVE_NORMAL',
                   update_buffers=False, **(dict(evaluate_on_origin=False) if scope == 'mmpretrain' else {}))
    cfg, sentences = replace(custom_hooks=[dict(type='EMAHook', **options)], scope=scope)
    assert cfg.custom_hooks == [dict(type='mmparax.EMAHook', momentum=0.1, priority='ABOVE_NORMAL')]
    assert len(sentences) == 2 and 'custom_hooks[0] is mmparax.EMAHook' in sentences[1]


@pytest.mark.parametrize(
    'option', [dict(ema_type='StochasticWeightAverage'),
               dict(begin_epoch=2), dict(update_buffers=True)], ids=str)
def test_an_average_that_ours_cannot_make_stays_and_is_named(option):
    hook = dict(type='EMAHook', momentum=0.1, **option)
    cfg, sentences = replace(custom_hooks=[dict(hook)])
    (name, value), = option.items()
    assert cfg.custom_hooks == [hook] and f'mmparax.EMAHook has no {name}={value!r}.' in sentences[-1]


@pytest.mark.parametrize('priority', ['VERY_LOW', 'LOWEST', 95])
def test_an_average_that_stays_comes_before_the_checkpoints(priority):
    cfg, sentences = replace(custom_hooks=[dict(type='EMAHook', update_buffers=True, priority=priority)])
    assert cfg.custom_hooks[0]['priority'] == 'NORMAL' and "has the priority 'NORMAL'" in sentences[-1]


@pytest.mark.parametrize('save, words', [('all', 'keep the frozen base'), ('trainable', 'leave the frozen base out')])
def test_the_log_tells_what_checkpoints_hold(save, words):
    _, sentences = replace(default_hooks=dict(checkpoint=dict(type='CheckpointHook', save=save)))
    assert words in sentences[0]


@pytest.mark.parametrize('hook', [mmparax.CheckpointHook, mmparax.EMAHook, mmparax.RoutingHook], ids=lambda hook: hook.__name__)
def test_an_unknown_option_is_refused_at_once(hook):
    with pytest.raises(ParameterError, match=f'{hook.__name__} has no option .nonsense.; its options are: .*interval') as error:
        hook(nonsense=1)
    assert error.value.parameter == 'nonsense'


def test_models_of_others_are_left_alone():

    def model(**parts):
        return Config(dict(default_scope='mmseg', model=dict(type='EncoderDecoder', **parts)))

    assert holds_adapted_backbone(model(backbone=BACKBONE))
    assert holds_adapted_backbone(model(module=dict(backbone=dict(type='mmparax.AdaRouteConvNeXt'))))
    for other in (model(backbone=dict(type='mmpretrain.SwinTransformer')), model(neck=dict(type='mmparax.AdaRoute')), Config()):
        assert not holds_adapted_backbone(other)
