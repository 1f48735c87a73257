"""What a first checkpoint holds can be read again, and a run goes on from it as if nothing had happened."""
import mmengine.optim.scheduler as schedulers_of_mmengine
import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler import StepLR
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import LogProcessor
from torch import nn

from helpers.cases import build as build_backbone
from mmparax.checks import round_trip
from mmparax.checks.scheduler_states import build_schedulers, check_states, get_states, list_schedulers, load_states, reread

NEEDED = dict(Constant=dict(end=3), MultiStep=dict(milestones=[2, 3, 3]), Step=dict(step_size=2), Exponential=dict(gamma=0.9),
              CosineAnnealing=dict(T_max=6), CosineRestart=dict(periods=[2, 4], restart_weights=[1, 0.5], eta_min=0),
              OneCycle=dict(eta_max=1., total_steps=6), ReduceOnPlateau=dict(patience=0, monitor='loss'))
KINDS = sorted(name for name in vars(schedulers_of_mmengine) if name.endswith(('LR', 'Momentum')))


def list_trainable(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_wrapper():
    return OptimWrapper(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1, momentum=0.9))


def go_on(wrapper, schedulers, steps):
    """The rates and momenta of some steps."""
    seen = []
    for number in range(steps):
        wrapper.optimizer.step()
        for _, scheduler in list_schedulers(schedulers):
            scheduler.step(dict(loss=1. + number)) if 'Plateau' in type(scheduler).__name__ else scheduler.step()
        seen.append([(group['lr'], group['momentum']) for group in wrapper.param_groups])
    return seen


@pytest.mark.parametrize('kind', KINDS)
def test_every_scheduler_of_mmengine_goes_on(kind):
    options = next((value for name, value in NEEDED.items() if kind.startswith(name)), {})
    cfg = dict(train_cfg=dict(max_epochs=8), param_scheduler=dict(type=kind, **options))
    wrapper, again = make_wrapper(), make_wrapper()
    schedulers = build_schedulers(cfg, wrapper, 5)
    before = go_on(wrapper, schedulers, 2)
    states = reread(get_states(schedulers), kind)
    optimizer = wrapper.state_dict()
    expected = go_on(wrapper, schedulers, 3)
    fresh = build_schedulers(cfg, again, 5)
    again.load_state_dict(optimizer)
    load_states(fresh, states)
    assert len({repr(rates) for rates in [*before, *expected]}) > 1  # it acts
    assert go_on(again, fresh, 3) == expected


def test_schedulers_are_built_as_the_runner_builds_them():
    cfg = dict(train_cfg=dict(max_epochs=3),
               param_scheduler=[dict(type='LinearLR', start_factor=0.5, end=1, convert_to_iter_based=True),
                                dict(type='PolyLR')])
    warmup, poly = build_schedulers(cfg, make_wrapper(), 7)
    assert (warmup.end, warmup.by_epoch, poly.end) == (7, False, 3)
    several = OptimWrapperDict(a=make_wrapper(), b=make_wrapper())
    built = build_schedulers(
        dict(train_cfg=dict(max_iters=9), param_scheduler=dict(a=dict(type='PolyLR', by_epoch=False),
                                                               b=dict(type='StepLR', step_size=1))), several, 7)
    assert [(place, scheduler.end) for place, scheduler in list_schedulers(built)] == [('param_scheduler.a.0', 9),
                                                                                       ('param_scheduler.b.0', 1)]
    assert build_schedulers({}, make_wrapper(), 7) is None and not list(list_schedulers(None))


class Remembers:
    """Plain data no more."""


def test_a_scheduler_that_keeps_an_object_is_named():
    scheduler = StepLR(make_wrapper(), step_size=1)
    check_states([scheduler])
    scheduler.memory = Remembers()
    with pytest.raises(
            ValueError, match=r'the state of param_scheduler.1 \(StepLR\) cannot be resumed from: a checkpoint holds '
            'tensors and plain data alone .*Remembers'):
        check_states([StepLR(make_wrapper(), step_size=1), scheduler])


def test_what_the_doctor_tries():
    model = nn.ModuleDict(dict(backbone=build_backbone('adaroute'), head=nn.Linear(2, 2)))
    cfg = dict(train_cfg=dict(max_epochs=3), param_scheduler=dict(type='MultiStepLR', milestones=[1, 2]))

    def build():
        wrapper = OptimWrapper(torch.optim.SGD(list_trainable(model), lr=0.1, momentum=0.9))
        return wrapper, build_schedulers(cfg, wrapper, 5)

    wrapper, schedulers = build()
    go_on(wrapper, schedulers, 1)
    checkpoint = round_trip.make_checkpoint(model, wrapper, schedulers, dict(cfg='x'), 'trainable', LogProcessor())
    assert {'param_schedulers', 'message_hub', 'resume_state', 'optimizer', 'state_dict'} <= set(checkpoint)
    assert set(checkpoint['message_hub']['log_scalars']) == {'loss', 'lr'}
    rebuilt = []

    def rebuild():
        rebuilt.append(build())
        return rebuilt[-1]

    text = round_trip.check_round_trip(model, checkpoint, rebuild)
    assert text.startswith('weights, optimizer, schedulers and histories are written, read and loaded again')
    assert rebuilt[0][0].param_groups[0]['lr'] == pytest.approx(0.01)
    assert rebuilt[0][1][0].last_step == schedulers[0].last_step == 1
    checkpoint['meta']['dataset_meta'] = dict(of=Remembers())
    with pytest.raises(ValueError, match='a checkpoint of this run cannot be resumed from.*Remembers'):
        round_trip.check_round_trip(model, checkpoint, rebuild)


def test_of_a_large_checkpoint_all_but_the_tensors_is_tried(monkeypatch):
    monkeypatch.setattr(round_trip, 'LARGEST_COPY', 1)
    model = nn.ModuleDict(dict(backbone=build_backbone('adaroute'), head=nn.Linear(2, 2)))

    def build():
        return OptimWrapper(torch.optim.SGD(list_trainable(model), lr=0.1)), None

    before = {name: value.clone() for name, value in model.state_dict().items()}
    checkpoint = round_trip.make_checkpoint(model, build()[0], None, {}, 'all', LogProcessor())
    assert 'were left out of the writing' in round_trip.check_round_trip(model, checkpoint, build)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    checkpoint['meta']['dataset_meta'] = dict(of=Remembers())
    with pytest.raises(ValueError, match='cannot be resumed from.*Remembers'):
        round_trip.check_round_trip(model, checkpoint, build)


def test_registered_schedulers_are_all_tried():
    assert {name for name in PARAM_SCHEDULERS.module_dict if name.endswith(('LR', 'Momentum'))} >= set(KINDS) and len(KINDS) > 15
