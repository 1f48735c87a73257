"""Models whose gates a test sets."""
import torch
from mmengine.model import ImgDataPreprocessor
from torch import nn

from helpers.cases import build
from mmparax.checks.gates import find_routed_adapters


class Net(nn.Module):
    """A backbone and what a model of a toolbox has around it."""

    def __init__(self, method='adaroute', **options):
        super().__init__()
        self.data_preprocessor = ImgDataPreprocessor(mean=[127.] * 3, std=[60.] * 3)
        self.backbone = build(method, 'swin', **options)
        self.eval()

    def extract_feat(self, inputs):
        return self.backbone(inputs)


def set_gates(model, logits):
    """Let every router give the same gates for every image; ``logits`` gives those of M experts."""
    for adapter in find_routed_adapters(model):
        nn.init.zeros_(adapter.router.gates.weight)
        with torch.no_grad():
            adapter.router.gates.bias.copy_(torch.tensor(logits(adapter.num_experts)).repeat(len(adapter.groups)))
