"""Every method on every backbone compiles into one graph; tracing takes seconds each, so most run in `make test-full`."""
import pytest
import torch
from cases import CELLS, build, images

QUICK = [('adaroute', 'vit'), ('toy-prompts', 'swin'), ('toy-block', 'convnext'), ('toy-branch', 'mit')]


@pytest.mark.parametrize('method, backbone', [pytest.param(*cell, marks=[] if cell in QUICK else pytest.mark.full)
                                              for cell in CELLS])
def test_compiles_in_one_graph(method, backbone):
    torch._dynamo.reset()
    model = build(method, backbone).eval()
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    with torch.no_grad():
        for a, b in zip(compiled(images(backbone)), model(images(backbone))):
            torch.testing.assert_close(a, b)
