"""Every method on every backbone compiles into one graph; tracing takes seconds each, so most run in `make test-full`."""
import pytest
import torch

from helpers.cases import CASES, build, images

# As few blocks as have all kinds: tracing takes as long for every one of them.
SMALL = dict(swin=dict(arch=dict(embed_dims=8, depths=[2, 1], num_heads=[1, 2]),
                       out_indices=(0, 1)), convnext=dict(arch=dict(channels=[8, 16], depths=[2, 1]), out_indices=(0, 1)),
             vit=dict(arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
                      out_indices=(0, 1)), mit=dict(num_layers=[2, 1]))
QUICK = [('adaroute', 'vit'), ('toy-prompts', 'swin'), ('toy-block', 'convnext'), ('toy-branch', 'mit')]


@pytest.mark.parametrize('method, backbone',
                         [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.full) for case in CASES])
def test_compiles_in_one_graph(method, backbone):
    torch.compiler.reset()
    model = build(method, backbone, **SMALL[backbone]).eval()
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    with torch.no_grad():
        for a, b in zip(compiled(images(backbone)), model(images(backbone))):
            torch.testing.assert_close(a, b)
