"""What PyTorch does not document, and what is done where it is gone."""
import pytest
import torch

from helpers.cases import adapter_and_center, perturb
from mmparax.ops.dispatch import use_backend
from mmparax.ops.functional import sum_expert_gradients_once
from mmparax.ops.fused import experts
from mmparax.ops.internals import get_backward_id, softmax_backward


def test_a_backward_pass_has_a_number_of_its_own():
    found = []

    class Ask(torch.autograd.Function):

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            found.append(get_backward_id())
            return grad

    x = torch.ones(2, requires_grad=True)
    for _ in range(2):
        Ask.apply(Ask.apply(x)).sum().backward()
    assert get_backward_id() == -1 and found[0] == found[1] != found[2] == found[3] and -1 not in found


@pytest.mark.parametrize('is_there', [True, False])
def test_the_gradient_of_a_softmax(is_there, monkeypatch):
    if not is_there:
        monkeypatch.delattr(torch, '_softmax_backward_data')
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    output, grad = x.softmax(1), torch.randn(2, 3, 5, dtype=torch.float64)
    expected, = torch.autograd.grad(output, x, grad)
    torch.testing.assert_close(softmax_backward(grad, output.detach(), 1), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize('backend', ['fused', 'cpu'])
def test_without_a_number_each_adapter_adds_its_own_gradient(backend, monkeypatch):
    adapter, center = adapter_and_center()
    perturb(adapter, center)
    both = torch.nn.ModuleList([adapter, center]).double()

    @sum_expert_gradients_once
    def forward(x):
        return adapter(adapter(x, (5, 7)), (5, 7))

    def differentiate():
        x = torch.randn(2, 35, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
        return torch.autograd.grad(forward(x).sin().sum(), [x, *both.parameters()])

    calls = []
    monkeypatch.setattr(experts.AliasExperts, 'apply', lambda *inputs, apply=experts.AliasExperts.apply:
                        (calls.append(1), apply(*inputs))[1])
    with use_backend(backend):
        expected = differentiate()
        assert calls == [1]
        monkeypatch.delattr(torch._C, '_current_graph_task_id')
        found = differentiate()
    assert get_backward_id() is None and calls == [1]
    for mine, theirs in zip(found, expected):
        assert (mine - theirs).abs().max() <= 1e-12 * theirs.abs().max()
