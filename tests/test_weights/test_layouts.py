"""Key layouts of published files."""
import torch
from mmpretrain.models.backbones import SwinTransformer

from helpers.cases import TINY_SWIN
from mmparax.weights.layouts import convert_swin, reorder_merging


def test_merging_reorder_is_that_of_the_unfolded_map():
    x = torch.arange(2 * 3 * 2 * 2.).view(2, 3, 2, 2)  # B, C, H, W
    unfolded = torch.nn.functional.unfold(x, 2, stride=2)[:, :, 0]
    concatenated = torch.cat([x[:, :, 0, 0], x[:, :, 1, 0], x[:, :, 0, 1], x[:, :, 1, 1]], 1)
    assert torch.equal(reorder_merging(concatenated), unfolded)


def test_openmmlab_layout_passes_unchanged():
    weights = dict(SwinTransformer(**TINY_SWIN).named_parameters())
    assert convert_swin(weights) is weights
