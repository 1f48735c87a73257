"""The gradients of the first step that an optimizer takes."""
import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn

from mmparax.checks.gradients import check_gradients, sort_gradients, watch_first_step
from mmparax.checks.optimizer import list_optim_wrappers
from mmparax.checks.schedule import read_schedule


@pytest.mark.parametrize('fused', [False, True])
def test_the_first_step_that_the_loss_scaler_accepts_is_judged(fused):
    """A rejected step is no finding: the scale is halved and training goes on."""
    model = nn.Linear(2, 1)
    optimizer, found = torch.optim.AdamW(model.parameters(), fused=fused), []
    watch_first_step(optimizer, model, found.append)
    scaler, rejected = torch.amp.GradScaler('cpu', init_scale=2.**127), 0
    while not found and rejected < 60:
        optimizer.zero_grad()
        scaler.scale(model(torch.full((1, 2), 100.)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        rejected += not found
    assert rejected and found[0].nonfinite == found[0].missing == [] and found[0].count == 2


def test_exact_zeros_are_counted_not_refused():
    model = nn.Linear(2, 2)
    (model(torch.ones(1, 2)) * torch.tensor([0., 1.])).sum().backward()
    model.bias.grad.zero_()
    found = sort_gradients(model.named_parameters())
    assert found.zero == ['bias'] and found.count == 2
    check_gradients(found)


def test_several_optimizers_are_each_watched():
    """An OptimWrapperDict, as models with a step of their own use it."""
    model = torch.nn.ModuleDict(dict(a=torch.nn.Linear(1, 1), b=torch.nn.Linear(1, 1)))
    wrappers = OptimWrapperDict(
        **{name: OptimWrapper(torch.optim.SGD(part.parameters(), lr=1.), accumulative_counts=2) for name, part in model.items()})
    found = []
    for wrapper in list_optim_wrappers(wrappers):
        watch_first_step(wrapper.optimizer, model, found.append)
    assert read_schedule({}, 2, wrappers).describe().startswith('Effective batch size 4')
    wrappers['a'].update_params(model['a'](torch.ones(1, 1)).sum())
    assert not found and [part._inner_count for part in list_optim_wrappers(wrappers)] == [1, 0]
    wrappers['a'].update_params(model['a'](torch.ones(1, 1)).sum())
    assert [part.count for part in found] == [2] and not found[0].missing  # the other optimizer's have none yet
