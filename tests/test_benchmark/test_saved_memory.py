"""What autograd saves: counted as by hand, and as predicted for the blocks of every family."""
import pytest
import torch
from torch import nn

from mmparax.benchmark.saved_memory import PASSED, SavedBytesCounter, format_saved_table, measure_saved


@pytest.mark.parametrize(
    'make, frozen, expected',
    [
        (lambda: nn.Linear(8, 16), False, 0),  # its input is there anyway
        (lambda: nn.GELU(), False, 0),
        (lambda: nn.Sequential(nn.GELU(), nn.Linear(8, 16)), False, 8),  # the input of the linear map
        (lambda: nn.Sequential(nn.GELU(), nn.Linear(8, 16)), True, 0),  # nothing for a frozen one
        (lambda: nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)), False, 64),
        (lambda: nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)), True, 32),
    ])
def test_saved_bytes_are_those_of_the_formula(make, frozen, expected):
    tokens = 10
    model, x = make(), torch.randn(tokens, 8, requires_grad=True)
    model.requires_grad_(not frozen)
    counter = SavedBytesCounter([*model.parameters(), x])
    with counter.count(dict(all=model)):
        out = model(x)
    assert counter.total == counter.parts['all'] == 4 * tokens * expected
    out.sum().backward()


def test_a_storage_is_counted_once_and_under_the_module_that_saved_it_first():
    x = torch.randn(10, requires_grad=True)
    first, second = nn.Identity(), nn.Tanh()
    counter = SavedBytesCounter([x])
    with counter.count(dict(first=first, second=second)):
        y = second(first(x.exp()))  # exp saves its result outside, tanh its own
        (y[:5] * y[5:]).sum()  # both are views of what tanh saved
    assert counter.parts == {'first': 0, 'second': 40, 'outside the blocks': 40}


@pytest.mark.parametrize('backbone, size, stages', [('swin-mini', (128, 128), [1, 2]), ('convnext-mini', (64, 64), [0, 1, 2, 3]),
                                                    ('vit-mini', (32, 32), [0])])
def test_what_a_block_saves_is_what_was_predicted(backbone, size, stages):
    """Swin where there are several windows and heads, as at real sizes."""
    rows = {row.method: row for row in measure_saved(backbone, ['full', 'frozen'], size, 1, [False])}
    assert rows['frozen'].error is None and rows['frozen'].stages[0].block_bytes == 0
    for name in ('full', PASSED):
        for stage in stages:
            assert rows[name].stages[stage].per_token == rows[f'{name}: predicted'].stages[stage].per_token, (name, stage)
    text = format_saved_table(backbone, size, 1, list(rows.values()))
    assert 'predicted' in text and PASSED in text


def test_recomputed_activations_are_not_saved():
    plain, = measure_saved('vit-mini', ['adaroute'], (32, 32), 1, [False])
    recomputed, = measure_saved('vit-mini', ['adaroute'], (32, 32), 1, [False], with_cp=True)
    assert 0 < recomputed.total < plain.total / 4
