"""Multipliers of learning rates that reach adapters, and the keys with which they do not."""
import pytest
from mmengine.optim import build_optim_wrapper
from torch import nn

from helpers.cases import build
from mmparax.checks.rates import choose_keys, describe_multipliers, find_key

SLOW = {'backbone': dict(lr_mult=0.1)}
MASK2FORMER = {  # as mmdetection's Swin configs have it: all of the backbone at a tenth, norms without decay
    'backbone': dict(lr_mult=0.1, decay_mult=1.0), 'backbone.norm': dict(lr_mult=0.1, decay_mult=0.0),
    'relative_position_bias_table': dict(lr_mult=0.1, decay_mult=0.0), 'query_embed': dict(lr_mult=1.0, decay_mult=0.0),
    **{f'backbone.stages.{stage}.blocks.0.norm': dict(lr_mult=0.1, decay_mult=0.0) for stage in range(4)}
}
DEEP = {'backbone.stages': dict(lr_mult=0.1), 'backbone.expert_centers': dict(lr_mult=0.5)}


class Model(nn.Module):

    def __init__(self, method):
        super().__init__()
        self.backbone = build(method, 'swin')
        self.decode_head = nn.Linear(4, 4)


@pytest.fixture(scope='module')
def models():
    return {method: Model(method) for method in ('adaroute', 'lora', 'mona')}


def make_wrapper(model, keys=None, constructor='DefaultOptimWrapperConstructor', **paramwise):
    options = {**({'custom_keys': keys} if keys else {}), **paramwise}
    return build_optim_wrapper(
        model,
        dict(type='OptimWrapper', constructor=constructor, optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
             paramwise_cfg=options or None)), options


@pytest.mark.parametrize('constructor', ['DefaultOptimWrapperConstructor', 'mmparax.OptimWrapperConstructor'])
@pytest.mark.parametrize('method', ['adaroute', 'lora', 'mona'])
@pytest.mark.parametrize('keys', [SLOW, MASK2FORMER, DEEP], ids=['dino', 'mask2former', 'deep'])
def test_the_remedy_works_by_mmengines_rule(keys, method, constructor, models):
    model = models[method]
    wrapper, options = make_wrapper(model, keys, constructor)
    text = describe_multipliers(model, wrapper, options)
    assert 'of the learning rate of the run (0.0001)' in text and ' 0.1 ' in text
    names = [name for name, parameter in model.named_parameters() if 'adapters' in name or 'expert_centers' in name]
    added = {key: dict(lr_mult=1.0) for key in choose_keys(keys, names)}
    assert added and all(repr(key) in text for key in added)
    wrapper, options = make_wrapper(model, {**keys, **added}, constructor)
    assert describe_multipliers(model, wrapper, options) is None
    rates = {id(p): group['lr'] for group in wrapper.optimizer.param_groups for p in group['params']}
    norms = [name for name, parameter in model.named_parameters() if parameter.requires_grad and 'backbone.norm' in name]
    parameters = dict(model.named_parameters())
    if keys is not DEEP:
        assert norms and all(rates[id(parameters[name])] == pytest.approx(1e-5) for name in norms)  # they are left alone


def test_what_does_not_reach_them_is_not_said(models):
    model = models['adaroute']
    for keys, paramwise in ((None, {}), ({'norm': dict(decay_mult=0.)}, {}), (None, dict(norm_decay_mult=0.,
                                                                                         bias_decay_mult=0.))):
        wrapper, options = make_wrapper(model, keys, **paramwise)
        assert describe_multipliers(model, wrapper, options) is None


def test_multipliers_of_biases_reach_them(models):
    wrapper, options = make_wrapper(models['adaroute'], bias_lr_mult=2.)
    text = describe_multipliers(models['adaroute'], wrapper, options)
    assert 'have 2 of the learning rate of the run' in text and 'by the constructor or paramwise_cfg' in text


def test_a_decay_by_layers_is_replaced(models):
    wrapper, _ = make_wrapper(models['adaroute'], {'backbone': dict(lr_mult=0.5)})
    text = describe_multipliers(models['adaroute'], wrapper, dict(decay_rate=0.9, decay_type='stage_wise', num_layers=6))
    assert "Set optim_wrapper.constructor='mmparax.OptimWrapperConstructor' and optim_wrapper.paramwise_cfg=None" in text


def test_the_longest_key_wins():
    assert find_key(['a', 'adapters', 'backbone'], 'backbone.x.adapters.y') == 'adapters'
    assert find_key(['backbone.x', 'adapters'], 'backbone.x.adapters.y') == 'backbone.x'
    assert find_key([], 'backbone') is None


def test_a_head_with_a_multiplier_of_its_own_is_not_the_measure(models):
    """SegFormer's head learns ten times as fast as the run's rate says; the adapters have that rate."""
    wrapper, options = make_wrapper(models['adaroute'], {'head': dict(lr_mult=10.), 'norm': dict(decay_mult=0.)})
    assert describe_multipliers(models['adaroute'], wrapper, options) is None
