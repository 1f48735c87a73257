"""Effective receptive fields against closed forms; the tool, its errors, and going on after an interruption."""
import json
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch import nn

from helpers.analysed import InterruptedFunction, call, write_folder
from helpers.cases import build
from mmparax.analysis import erf as module
from mmparax.analysis.erf import (
    compute_area_ratios,
    compute_erf,
    compute_square_shares,
    find_square_sides,
    read_erf_maps,
    sum_erf,
)
from mmparax.analysis.images import ImageCrops
from mmparax.analysis.measuring import Setup
from mmparax.analysis.models import ModelSource, load_extractor, set_map_output
from mmparax.errors import InputError

# Input sizes at which the last map has a single middle.
SIZES = {'swin': 96, 'convnext': 96, 'vit': 40, 'mit': 56}


def make_conv(inside, outside, size):
    return nn.Conv2d(inside, outside, size, padding=size // 2).double()


def get_kernel(layer):
    return layer.weight.detach().numpy()


def make_images(size, batch=3, dtype=torch.float64):
    return torch.randn(batch, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(3))


def center(small, size):
    """A small array in the middle of zeros (size, size)."""
    found = np.zeros((size, size))
    start = (size - len(small)) // 2
    found[start:start + len(small), start:start + len(small)] = small
    return found


def test_of_one_convolution_is_its_kernel():
    layer = make_conv(3, 4, 5)
    expected = center(np.abs(get_kernel(layer).sum(0)).sum(0), 11)
    np.testing.assert_allclose(compute_erf(layer, [make_images(11)], rectify=False), expected, atol=1e-15)


def test_of_two_convolutions_is_the_convolution_of_their_kernels():
    first, second = make_conv(3, 2, 3), make_conv(2, 4, 5)
    inner, outer = get_kernel(first), get_kernel(second).sum(0)
    joint = np.zeros((3, 7, 7))
    for y in range(5):
        for x in range(5):
            joint[:, y:y + 3, x:x + 3] += np.einsum('m,mchw->chw', outer[:, y, x], inner)
    found = compute_erf(nn.Sequential(first, second), [make_images(13)], rectify=False)
    np.testing.assert_allclose(found, center(np.abs(joint).sum(0), 13), atol=1e-14)


def test_an_even_map_has_four_cells_in_its_middle():
    layer = make_conv(3, 2, 3)
    joint = np.zeros((3, 8, 8))
    for y in (2, 3):
        for x in (2, 3):
            joint[:, y:y + 3, x:x + 3] += get_kernel(layer).sum(0)
    found = compute_erf(layer, [make_images(8)], rectify=False)
    np.testing.assert_allclose(found, np.abs(joint).sum(0), atol=1e-14)


def test_negative_channels_are_left_out():
    layer, batch = make_conv(3, 6, 3), make_images(5)
    middle = layer(batch)[:, :, 2, 2].detach().numpy() > 0
    assert 0 < middle.sum() < middle.size
    expected = np.mean([np.abs(np.einsum('o,ochw->chw', positive, get_kernel(layer))).sum(0) for positive in middle], 0)
    np.testing.assert_allclose(compute_erf(layer, [batch]), center(expected, 5), atol=1e-15)


def test_the_rectified_sum_survives_a_layer_norm():
    """With equal weights the channels of a LayerNorm add up to a constant, whose gradient is rounding noise."""

    class Normed(nn.Module):

        def __init__(self):
            super().__init__()
            self.conv, self.norm = make_conv(3, 8, 3), nn.LayerNorm(8).double()

        def forward(self, x):
            return self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    model = Normed()
    plain, rectified = (compute_erf(model, [make_images(7)], rectify=rectify) for rectify in (False, True))
    assert plain.sum() < 1e-10 * rectified.sum()
    assert (rectified > 0).sum() == 9


def test_is_the_mean_over_images_however_they_are_batched():
    model, batch = nn.Sequential(make_conv(3, 4, 3), nn.GELU(), make_conv(4, 2, 3)), make_images(9, 4)
    single = np.mean([compute_erf(model, [image[None]]) for image in batch], 0)
    np.testing.assert_allclose(compute_erf(model, [batch]), single, rtol=1e-12)
    np.testing.assert_allclose(compute_erf(model, [batch[:1], batch[1:]]), single, rtol=1e-12)


@pytest.mark.parametrize('method', ['frozen', 'adaroute', 'vpt', None])
@pytest.mark.parametrize('backbone', SIZES)
def test_a_frozen_base_gives_the_gradient_of_the_input(backbone, method):
    if (method, backbone) in (('vpt', 'convnext'), ('vpt', 'mit')):
        method = 'adaptformer'
    model = build(method, backbone).eval()
    batch = make_images(SIZES[backbone], 2, torch.float32)
    found = sum_erf(model, batch)
    x = batch.clone().requires_grad_()
    output = model.requires_grad_(True)(x)[-1]
    output[:, :, output.shape[2] // 2, output.shape[3] // 2].relu().sum().backward()
    # Up to rounding: torch's attention (MiT) takes another path where no weight needs a gradient.
    np.testing.assert_allclose(found, x.grad.abs().double().sum((0, 1)).numpy(), rtol=1e-4)
    assert found.sum() > 0 and batch.grad is None


@pytest.mark.parametrize('stage, size', [(1, 36), (2, 40), (3, 48), (4, 96)])
def test_each_stage_has_its_own(stage, size):
    model = build('adaroute').eval()
    assert sum_erf(model, make_images(size, 1, torch.float32), stage).shape == (size, size)


def test_vectors_of_a_classifier_become_maps():
    model = build('frozen', 'convnext', out_indices=(3, )).eval()
    with pytest.raises(InputError, match=r'AdaptedConvNeXt gives no feature map \(B, C, H, W\) but \(1, 64\)'):
        sum_erf(model, make_images(96, 1, torch.float32))
    set_map_output(model)
    assert sum_erf(model, make_images(96, 1, torch.float32)).sum() > 0


def test_no_such_stage():
    with pytest.raises(InputError, match='AdaptedSwin gives the stages 1, 2, 3, 4'):
        sum_erf(build('frozen').eval(), make_images(96, 1, torch.float32), 5)


def test_a_model_without_a_graph_is_refused():

    class Detached(nn.Module):

        def forward(self, x):
            return x.detach()

    with pytest.raises(InputError, match='Detached gives no gradient'):
        compute_erf(Detached(), [make_images(5)])


# ---- area ratios ----


def test_area_ratios_of_maps_made_by_hand():
    point = center(np.ones((1, 1)), 9)
    assert compute_area_ratios(point) == dict.fromkeys((0.2, 0.3, 0.5, 0.99), 1 / 81)
    even = np.ones((10, 10))
    assert find_square_sides(even, (0.04, 0.041, 0.5, 1)) == {0.04: 2, 0.041: 4, 0.5: 8, 1: 10}
    assert compute_area_ratios(even, (0.5, )) == {0.5: 0.64}
    rings = center(np.full((5, 5), 1.), 7)
    rings[3, 3] = 76  # 76 of 100 in the middle, 8 around it, 16 around those
    assert find_square_sides(rings, (0.76, 0.77, 0.84, 0.85, 1)) == {0.76: 1, 0.77: 3, 0.84: 3, 0.85: 5, 1: 5}
    sides, shares = compute_square_shares(rings)
    assert sides.tolist() == [1, 3, 5, 7] and shares.tolist() == [0.76, 0.84, 1, 1]


@pytest.mark.parametrize('field, thresholds, message', [(np.ones((3, 4)), (0.5, ), 'must be square'),
                                                        (np.zeros((3, 3)), (0.5, ), 'zero everywhere'),
                                                        (np.full((3, 3), np.nan), (0.5, ), 'not finite'),
                                                        (np.diag([1., -1, 1]), (0.5, ), 'negative'),
                                                        (np.ones((3, 3)), (0., ), 'above 0'),
                                                        (np.ones((3, 3)), (1.5, ), 'at most 1')])
def test_wrong_maps(field, thresholds, message):
    with pytest.raises(InputError, match=message):
        compute_area_ratios(field, thresholds)


# ---- the tool ----


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp('erf'))


SHORT = ('--num-images', 4, '--batch-size', 2, '--device', 'cpu')


@pytest.mark.full
def test_the_tool_compares_models_of_any_toolbox(folder, capsys, monkeypatch):
    out = folder / 'both'
    models = folder / 'swin.py', folder / 'swin.pth', folder / 'resnet.py', folder / 'resnet.pth', folder / 'swin.py'
    arguments = *models, '--names', 'AdaRoute', 'ResNet', 'start', '--out-dir', out, '--size', 96, *SHORT
    assert call('erf', *arguments, draw=True) is None
    text, result = capsys.readouterr().out, json.loads((out / 'erf.json').read_text())
    assert '96x96 pixels (4 images)' in text and 'AdaRoute' in text and 'ResNet' in text
    assert 'start: weights of random (allow_random_base=True)' in text
    assert result['size'] == 96 and result['images'] == 4 and result['thresholds'] == [0.2, 0.3, 0.5, 0.99]
    assert result['images_from'] == f'test_dataloader of {folder / "swin.py"}'
    maps = read_erf_maps(out, result)
    for model, field in zip(result['models'], maps):
        assert field.shape == (96, 96)
        assert model['area_ratios'] == {f'{name:g}': ratio for name, ratio in compute_area_ratios(field).items()}
    assert Image.open(out / 'erf.png').size[0] > 800
    # What is finished is not computed again, in other company either.
    monkeypatch.setattr(module, 'sum_erf', InterruptedFunction(sum_erf, 0))
    before = (out / 'erf.json').read_bytes()
    assert call('erf', *arguments) is None and (out / 'erf.json').read_bytes() == before
    assert call('erf', folder / 'resnet.py', folder / 'resnet.pth', folder / 'swin.py', folder / 'swin.pth', '--size', 96,
                '--out-dir', out, *SHORT) is None
    assert call('erf', *arguments, '--seed', 1) == 130


def test_the_tool_measures_what_the_function_says(folder):
    out, source = folder / 'direct', ModelSource('swin', str(folder / 'swin.py'), str(folder / 'swin.pth'))
    assert call('erf', source.config, source.checkpoint, '--out-dir', out, '--stage', 3, *SHORT) is None
    result = json.loads((out / 'erf.json').read_text())
    assert result['size'] == 80  # 5 x 16
    extractor, chosen = load_extractor(source), ImageCrops(Config.fromfile(source.config), 4)
    batches = [extractor.prepare(chosen.cut(range(start, start + 2), 80), chosen.bgr) for start in (0, 2)]
    assert abs(float(torch.cat(batches).mean())) < 2  # normalised
    np.testing.assert_allclose(read_erf_maps(out, result)[0], compute_erf(extractor.backbone, batches, 3), rtol=1e-12)


def test_interrupted_and_continued_is_the_same_bits(folder, capsys, monkeypatch):
    arguments = folder / 'swin.py', folder / 'swin.pth', '--size', 32, '--image-dir', folder / 'scenes' / 'images', *SHORT
    assert call('erf', *arguments, '--out-dir', folder / 'whole') is None
    monkeypatch.setattr(module, 'sum_erf', InterruptedFunction(sum_erf, 1))
    assert call('erf', *arguments, '--out-dir', folder / 'parts') == 130
    assert 'the same command goes on from here' in capsys.readouterr().err and not (folder / 'parts' / 'erf.json').exists()
    rest = InterruptedFunction(sum_erf)
    monkeypatch.setattr(module, 'sum_erf', rest)
    assert call('erf', *arguments, '--out-dir', folder / 'parts') is None and rest.calls == 1
    for name in ('erf.json', 'erf.npz'):
        assert (folder / 'whole' / name).read_bytes() == (folder / 'parts' / name).read_bytes()


def test_a_classifier_and_its_small_images(folder):
    assert call('erf', folder / 'crops.py', folder / 'crops.pth', '--out-dir', folder / 'small', *SHORT) is None
    assert json.loads((folder / 'small' / 'erf.json').read_text())['size'] == 32


def test_a_size_for_several_strides(folder):
    """Strides of 32 and 4 have no common size with a single cell in the middle of both maps."""
    extractors = [load_extractor(ModelSource(name, str(folder / f'{name}.py'))) for name in ('swin', 'resnet')]
    images = ImageCrops(Config.fromfile(folder / 'swin.py'), 2)
    setup = Setup([], folder, progress=False)
    assert module._choose_size(setup, extractors, None, images) == 96 and module._choose_size(setup, extractors, 3, images) == 80
    extractors[1].backbone = torch.nn.AvgPool2d(4)
    assert module._choose_size(setup, extractors, None, images) == 96
    assert module._choose_size(setup, extractors[1:], None, images) == 92
    assert module._choose_size(Setup([], folder, size=50), extractors, None, images) == 50


ERRORS = {
    'no config': (('absent.py', ), "the config 'absent.py' does not exist"),
    'no checkpoint': (('swin.py', 'absent.pth'), "the checkpoint 'absent.pth' does not exist"),
    'of another config': (('swin.py', 'crops.pth'), 'does not fit'),
    'of another backbone': (('resnet.py', 'swin.pth'), 'the checkpoint does not fit ResNet'),
    'an empty folder': (('swin.py', 'swin.pth', '--image-dir', 'empty'), "the folder 'empty' holds no images"),
    'no folder': (('swin.py', 'swin.pth', '--image-dir', 'swin.py'), "the folder of images 'swin.py' does not exist"),
    'no image': (('swin.py', 'swin.pth', '--image-dir', 'broken'), "cannot be read as an image"),
    'small images': (('swin.py', 'swin.pth', '--size', '160'), '128x96 pixels after the test pipeline .* less than the crop'),
    'no stage': (('swin.py', 'swin.pth', '--stage', '7'), 'AdaptedSwin gives the stages 1, 2, 3, 4'),
    'no device': (('swin.py', 'swin.pth', '--device', 'tpu9'), "device='tpu9' is not allowed"),
    'no number': (('swin.py', 'swin.pth', '--num-images', '0'), 'num.images=0'),
}


@pytest.mark.parametrize('case', ERRORS)
def test_wrong_input_is_one_sentence(case, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / 'empty').mkdir(exist_ok=True)
    (folder / 'broken').mkdir(exist_ok=True)
    (folder / 'broken' / 'image.png').write_text('no image')
    arguments, message = ERRORS[case]
    code = call('erf', *arguments, '--out-dir', 'wrong', *(() if '--device' in arguments else ('--device', 'cpu')))
    assert isinstance(code, str) and len(code.splitlines()) == 1
    assert re.search(message, code), code
    assert not (folder / 'wrong').exists()
