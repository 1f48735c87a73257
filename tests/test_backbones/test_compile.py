"""Every method on every backbone compiles into one graph; tracing takes seconds each, so most run in `make test-full`."""
import pytest
import torch
from cases import BACKBONES, METHODS, build, images

QUICK = ('adaroute', 'toy-branch', 'toy-linear', 'toy-prompts')


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('method', [pytest.param(name, marks=[] if name in QUICK else pytest.mark.full) for name in METHODS])
def test_compiles_in_one_graph(method, backbone):
    torch._dynamo.reset()
    model = build(method, backbone).eval()
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    with torch.no_grad():
        for a, b in zip(compiled(images(backbone)), model(images(backbone))):
            torch.testing.assert_close(a, b)
