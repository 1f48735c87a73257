"""The optimizer holds the trainable parameters, with mmengine's settings in as few groups as they need, and the log is short."""
import logging
import re

import pytest
from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, build_optim_wrapper
from torch import nn

from helpers.cases import build

OPTIMIZER = dict(type='AdamW', lr=0.5, weight_decay=0.1)
PARAMWISE = {
    'none': None,
    'keys': dict(
        custom_keys={'norm': dict(decay_mult=0.), 'head': dict(lr_mult=2.), 'adapters': dict(lr_mult=0.1, decay_mult=3.)}),
    'kinds': dict(norm_decay_mult=0., bias_decay_mult=0.5, bias_lr_mult=2., flat_decay_mult=0., dwconv_decay_mult=0.25),
    'lists': dict(custom_keys={'norm': dict(betas=[0.8, 0.9]), 'head': dict(lr_mult=2., betas=[0.8, 0.9])}),
    'duplicates': dict(bypass_duplicate=True, custom_keys={'head': dict(lr_mult=2.)}),
}


@pytest.fixture
def model():

    class Model(nn.Module):

        def __init__(self):
            super().__init__()
            self.backbone, self.head = build('adaroute'), nn.Sequential(nn.Linear(64, 4), nn.BatchNorm1d(4))
            self.head[1].bias.requires_grad_(False)
            self.half = nn.ParameterList([nn.Parameter(self.head[0].bias.data.clone(), requires_grad=False)])

    return Model()


@pytest.fixture
def lines(monkeypatch):
    """What is logged, without what only debugging shows."""
    found = []
    monkeypatch.setattr(MMLogger, 'callHandlers', lambda self, record: found.append(record.getMessage())
                        if record.levelno >= logging.INFO else None)
    MMLogger.get_current_instance()
    return found


def settings(wrapper, model):
    """(name, lr, weight decay, betas) of each parameter in an optimizer, in its order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [(names[id(parameter)], group['lr'], group['weight_decay'], tuple(group['betas']))
            for group in wrapper.optimizer.param_groups for parameter in group['params']]


def groups_of(wrapper, model):
    """Names of the parameters in each group of an optimizer."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group['params']] for group in wrapper.optimizer.param_groups]


@pytest.mark.parametrize('case', PARAMWISE)
def test_settings_are_those_of_mmengine(case, model, lines):
    config = dict(type='OptimWrapper', optimizer=OPTIMIZER, paramwise_cfg=PARAMWISE[case])
    before = dict(model.named_parameters())
    wrapper = build_optim_wrapper(model, dict(config, constructor='mmparax.OptimWrapperConstructor'))
    own, logged = settings(wrapper, model), list(lines)
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    theirs = settings(
        DefaultOptimWrapperConstructor({key: config[key] for key in ('type', 'optimizer')}, config['paramwise_cfg'])(model),
        model)
    assert sorted(own) == sorted(entry for entry in theirs if entry[0] in trainable)
    assert 0 < len(own) < len(before) and len(own) == len(trainable)
    of_groups = [[entry[1:] for entry in own if entry[0] in group] for group in groups_of(wrapper, model)]
    assert all(len(set(each)) == 1 for each in of_groups) and len(of_groups) == len({entry[1:] for entry in own})
    for group in groups_of(wrapper, model):
        assert group == [name for name in trainable if name in group]
    assert len(logged) == 1 and re.match(rf'AdamW over {len(own)} trainable tensors: .*\d+ with lr=', logged[0])
    counts = [int(count) for count in re.findall(r'(\d+) with lr', logged[0])]
    assert sum(counts) == len(own) and len(counts) == len({entry[1:3] for entry in own})
    after = dict(model.named_parameters())
    assert list(after) == list(before) and all(after[name] is parameter for name, parameter in before.items())


def test_a_parameter_in_two_places_is_refused_without_bypass(model, lines):
    model.again = nn.ModuleList([model.head[0]])
    model.again.extra = nn.ParameterList([model.head[0].weight])
    config = dict(type='OptimWrapper', constructor='mmparax.OptimWrapperConstructor', optimizer=OPTIMIZER,
                  paramwise_cfg=PARAMWISE['keys'])
    with pytest.raises(ValueError, match='more than one parameter group'):
        build_optim_wrapper(model, config)


def test_a_mistake_leaves_the_model_whole(model, lines):
    """Neither the model nor the logger is another one after an error."""
    before = list(model.state_dict())
    with pytest.raises(TypeError):
        build_optim_wrapper(
            model, dict(type='OptimWrapper', constructor='mmparax.OptimWrapperConstructor', optimizer=dict(OPTIMIZER, unknown=1)))
    assert list(model.state_dict()) == before and not MMLogger.get_current_instance().filters


def test_a_wrapped_model_is_unwrapped(model, lines):

    class Wrapped(nn.Module):

        def __init__(self):
            super().__init__()
            self.module = model

    config = dict(type='OptimWrapper', constructor='mmparax.OptimWrapperConstructor', optimizer=OPTIMIZER)
    assert settings(build_optim_wrapper(Wrapped(), config), model) == settings(build_optim_wrapper(model, config), model)
