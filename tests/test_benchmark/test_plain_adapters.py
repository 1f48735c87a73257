"""The adapters of the benchmark that are written plainly: the same functions as the real ones."""
import pytest
import torch
from torch import nn

from mmparax.adapters.adaroute import AdaRoute
from mmparax.adapters.base import BlockInfo
from mmparax.adapters.mona import Mona
from mmparax.benchmark.plain_adapters import PlainAdaRoute, PlainMona


def same_adapters(real, plain, block):
    """An adapter of each method with equal random weights: (real, plain, their parameters)."""
    made = []
    for method in (real, plain):
        torch.manual_seed(0)
        centers = method.build_centers([block] * 2)
        adapter = method.build('after_token_mixer', block, centers[0][0] if centers else None).double()
        parts = nn.ModuleList([adapter, *(center.double() for center, _ in centers)])
        for parameter in parts.parameters():
            nn.init.normal_(parameter, std=0.5)
        made.append((adapter, dict(parts.named_parameters())))
    return made


@pytest.mark.parametrize('real, plain, options', [
    *((AdaRoute, PlainAdaRoute, options)
      for options in ({}, dict(conv_layout='parallel'), dict(conv_layout='sequential_no_residual'),
                      dict(spatial_aggregation=False), dict(shortcut_scale=False, router_activation='sigmoid'),
                      dict(kernel_sizes=()), dict(kernel_sizes=(5, )))), (Mona, PlainMona, dict(dropout=0.))
])
@pytest.mark.parametrize('batch', [1, 3])
def test_plain_references_are_the_same_functions(real, plain, options, batch):
    block = BlockInfo(dim=6, depth=2, index=0, stage=0, family='Swin', ffn_dim=24, embed_dim=6, patch_size=4)
    adapters = same_adapters(real(hidden_dim=4, **options), plain(hidden_dim=4, **options), block)
    start, weight = torch.randn(2, batch, 5 * 7, 6, dtype=torch.float64)
    found = []
    for adapter, parameters in adapters:
        x = start.clone().requires_grad_()
        out = adapter(x, (5, 7))
        (out * weight).sum().backward()
        found.append((out.detach(), {'x': x.grad, **{name: value.grad for name, value in parameters.items()}}))
    assert type(adapters[1][0]).forward is not type(adapters[0][0]).forward
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-10, atol=1e-12)
    assert found[1][1].keys() == found[0][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-9, atol=1e-11, msg=name)
