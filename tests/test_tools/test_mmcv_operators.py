"""mmcv's operators, which set-up compiles in its own way, give the right numbers."""
import pytest
import torch
import torchvision
from mmcv.ops import nms, roi_align
from mmcv.ops.deform_conv import deform_conv2d
from mmcv.ops.modulated_deform_conv import modulated_deform_conv2d
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_suppression_keeps_the_boxes_that_torchvision_keeps():
    corners = torch.rand(300, 2) * 50
    boxes, scores = torch.cat([corners, corners + 1 + torch.rand(300, 2) * 30], 1), torch.rand(300)
    kept, indices = nms(boxes, scores, 0.4)
    expected = torchvision.ops.nms(boxes, scores, 0.4)
    assert 1 < len(expected) < 300 and torch.equal(indices, expected)
    assert torch.equal(kept, torch.cat([boxes, scores[:, None]], 1)[expected])


@pytest.mark.parametrize('aligned', [False, True])
def test_roi_align_and_its_gradient(aligned):
    features = torch.rand(2, 3, 16, 20, requires_grad=True)
    rois = torch.tensor([[0, 3, 4, 30, 20], [1, 0.5, 2, 60, 50], [1, 10, 10, 11, 13]], dtype=torch.float32)
    ours = roi_align(features, rois, (5, 4), 0.25, 2, 'avg', aligned)
    theirs = torchvision.ops.roi_align(features, rois, (5, 4), 0.25, 2, aligned)
    torch.testing.assert_close(ours, theirs)
    weights = torch.rand_like(ours)
    gradients = [torch.autograd.grad((out * weights).sum(), features)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_deformable_convolution():
    x, offset, weight = torch.rand(2, 4, 9, 9), torch.randn(2, 18, 7, 7), torch.rand(6, 4, 3, 3)
    torch.testing.assert_close(deform_conv2d(x, offset, weight), torchvision.ops.deform_conv2d(x, offset, weight))
    mask, bias = torch.rand(2, 9, 7, 7), torch.rand(6)
    torch.testing.assert_close(modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 0, 1, 1, 1),
                               torchvision.ops.deform_conv2d(x, offset, weight, bias, mask=mask))


def test_deformable_attention_is_a_weighted_sum_of_samples():
    """Directly: each sample is a bilinear mean of four values, zero outside; all of them weighted and summed."""
    shapes, heads, dims, queries, points = [(5, 6), (3, 2)], 2, 3, 4, 2
    value = torch.rand(1, sum(h * w for h, w in shapes), heads, dims)
    places = torch.rand(1, queries, heads, len(shapes), points, 2) * 1.4 - 0.2  # some outside
    weights = torch.rand(1, queries, heads, len(shapes), points)
    expected, start = torch.zeros(queries, heads, dims), 0
    for level, (height, width) in enumerate(shapes):
        for query in range(queries):
            for head in range(heads):
                for point in range(points):
                    x, y = (places[0, query, head, level, point] * torch.tensor([width, height]) - 0.5).tolist()
                    for row in (int(y // 1), int(y // 1) + 1):
                        for column in (int(x // 1), int(x // 1) + 1):
                            if 0 <= row < height and 0 <= column < width:
                                share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[0, query, head, level, point]
                                expected[query, head] += share * value[0, start + row * width + column, head]
        start += height * width
    found = multi_scale_deformable_attn_pytorch(value, torch.tensor(shapes), places, weights)
    torch.testing.assert_close(found[0], expected.flatten(1))
