"""Minibatch CKA against the formula in float64; the tool, its errors, and going on after an interruption."""
import json
import math
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from helpers.analysed import InterruptedFunction, call, write_folder
from mmparax.analysis import cka as module
from mmparax.analysis.blocks import record_outputs, select_blocks
from mmparax.analysis.cka import (
    MinibatchCKA,
    average_off_diagonal,
    compute_gram,
    estimate_hsic,
    normalize_hsic,
    pool_output,
)
from mmparax.analysis.images import ImageCrops
from mmparax.analysis.models import ModelSource, load_extractor
from mmparax.errors import InputError


def make_features(batches=3, samples=8, width=6, seed=0):
    """(batches, samples, width), float64."""
    return torch.randn(batches, samples, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hsic_by_terms(first, second):
    """The unbiased HSIC of two feature matrices, term by term (Song et al., JMLR 2012, equation 5)."""
    k, kernel = np.asarray(first) @ np.asarray(first).T, np.asarray(second) @ np.asarray(second).T
    np.fill_diagonal(k, 0), np.fill_diagonal(kernel, 0)
    n, one = len(k), np.ones(len(k))
    return (np.trace(k @ kernel) + (one @ k @ one) * (one @ kernel @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) *
            (one @ k @ kernel @ one)) / (n * (n - 3))


def compute_directly(*parts):
    """CKA of features, each a list of batches: the mean over batches of HSIC, then the quotient."""
    found = [[np.mean([hsic_by_terms(a, b) for a, b in zip(first, second)]) for second in parts] for first in parts]
    own = np.sqrt(np.diag(found))
    return np.array(found) / own / own[:, None]


def measure(*parts):
    measure = MinibatchCKA()
    for batch in zip(*parts):
        measure.update(batch)
    return measure.value()


def test_is_the_formula():
    x, z = make_features(), make_features(width=9, seed=1)
    y = x @ make_features(1, 6, 5, seed=2)[0] + 0.5 * make_features(width=5, seed=3)
    np.testing.assert_allclose(measure(x, y, z), compute_directly(x, y, z), rtol=1e-10)


@pytest.mark.parametrize('count', [4, 5, 16])
def test_hsic_is_the_formula_for_every_batch_size(count):
    x, y = make_features(1, count, 3)[0] + 2, make_features(1, count, 7, seed=1)[0]
    found = estimate_hsic(torch.stack([compute_gram(x), compute_gram(y)])).numpy()
    expected = [[hsic_by_terms(first, second) for second in (x, y)] for first in (x, y)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_of_a_feature_with_itself_rotated_moved_and_scaled_is_one():
    x = make_features(width=10)
    rotation = torch.linalg.qr(make_features(1, 10, 10, seed=1)[0])[0]
    np.testing.assert_allclose(measure(x, x @ rotation, -0.01 * x @ rotation + 7), np.ones((3, 3)), rtol=1e-9)


def test_of_independent_noise_is_about_zero():
    """The estimate of n samples deviates by sqrt(2 / (n (n - 3))), and of b batches by 1 / sqrt(b) of that."""
    count, batches = 16, 50
    deviation = math.sqrt(2 / (count * (count - 3) * batches))
    parts = [make_features(batches, count, 200, seed) for seed in range(4)]
    found = measure(*parts)
    assert np.abs(found[~np.eye(4, dtype=bool)]).max() < 4 * deviation
    # The biased estimator calls the same noise alike, because there are more dimensions than samples.
    centring = np.eye(count) - 1 / count
    k, kernel = (centring @ compute_gram(part[0]).numpy() @ centring for part in parts[:2])
    assert (k * kernel).sum() / math.sqrt((k * k).sum() * (kernel * kernel).sum()) > 0.9


def test_batches_of_other_sizes_estimate_the_same():
    """Independent of the batch size but for noise: 4 deviations of the smaller batches."""
    shared = make_features(1, 960, 5)[0]
    x, y = shared, shared + 0.7 * make_features(1, 960, 5, seed=1)[0]
    small, large = (measure(x.split(size), y.split(size))[0, 1] for size in (8, 96))
    assert 0.4 < large < 0.9 and abs(small - large) < 4 * math.sqrt(2 / (8 * 5 * 120))


def test_sums_of_two_streams_add_up():
    """What is kept is one number a pair, whatever the number of samples."""
    x, y = make_features(6), make_features(6, width=3, seed=1)
    whole, halves = MinibatchCKA(), [MinibatchCKA(), MinibatchCKA()]
    for number, batch in enumerate(zip(x, y)):
        whole.update(batch)
        halves[number // 3].update(batch)
        assert whole.sums.shape == (2, 2) and whole.sums.dtype == np.float64
    np.testing.assert_allclose(halves[0].sums + halves[1].sums, whole.sums, rtol=1e-12)
    np.testing.assert_allclose(whole.value(), compute_directly(x, y), rtol=1e-10)


def test_a_gram_matrix_is_in_float64_whatever_its_features(monkeypatch):
    monkeypatch.setattr(module, 'CHUNK', 64)
    maps = make_features(1, 5, 3 * 7 * 7)[0].float().reshape(5, 3, 7, 7) + 1000
    flat = maps.double().flatten(1).numpy()
    found = compute_gram(maps)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), flat @ flat.T, rtol=1e-14)


def test_features_that_do_not_vary_have_no_similarity():
    x = make_features()
    found = measure(x, torch.zeros_like(x))
    assert found[0, 0] == pytest.approx(1) and np.isnan(found[:, 1]).all()
    assert average_off_diagonal(found) is None
    assert average_off_diagonal(np.array([[1, 0.2, np.nan], [0.4, 1, np.nan], [np.nan] * 3])) == pytest.approx(0.3)


def test_pooling_is_the_mean_over_positions():
    maps = make_features(1, 2, 60)[0].reshape(2, 3, 4, 5)
    tokens = maps.flatten(2).transpose(1, 2)
    torch.testing.assert_close(pool_output(maps, 'mean'), pool_output(tokens, 'mean'))
    assert pool_output(maps, 'mean').shape == (2, 3) and pool_output(maps, 'none') is maps
    torch.testing.assert_close(compute_gram(tokens), compute_gram(maps))


@pytest.mark.parametrize('parts, message', [([make_features()[0, :3]] * 2, 'batch_size=3 .* at least 4 samples'),
                                            ([make_features()[0], make_features()[0, :5]], 'the same samples'),
                                            ([make_features()[0]] * 3, 'the batches before had 2')])
def test_wrong_batches(parts, message):
    measure = MinibatchCKA()
    measure.update([make_features()[0]] * 2)
    with pytest.raises(InputError, match=message):
        measure.update(parts)


def test_no_value_without_batches():
    with pytest.raises(InputError, match='before the first update'):
        MinibatchCKA().value()


# ---- the tool ----


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp('cka'))


SHORT = ('--num-images', 12, '--batch-size', 4, '--size', 64, '--device', 'cpu')


def read_result(folder):
    return json.loads((folder / 'cka.json').read_text())


def to_matrix(entry):
    return np.array(entry['matrix'])


def record_batches(folder, name, blocks, size=64):
    """Of each block the batches of outputs, as the tool's options say, without any of its sums."""
    extractor = load_extractor(ModelSource(name, str(folder / f'{name}.py'), str(folder / f'{name}.pth')))
    images = ImageCrops(Config.fromfile(folder / 'swin.py'), 12)
    found = [[] for _ in blocks]
    for start in (0, 4, 8):
        with record_outputs(select_blocks(extractor.backbone, blocks), lambda output: output.double().flatten(1).numpy()) as kept:
            with torch.no_grad():
                extractor.backbone(extractor.prepare(images.cut(range(start, start + 4), size), images.bgr))
        for batches, output in zip(found, kept.values()):
            batches.append(output)
    return found


def test_the_tool_compares_two_models_of_any_toolbox(folder, capsys):
    out = folder / 'both'
    arguments = folder / 'swin.py', folder / 'swin.pth', folder / 'resnet.py', folder / 'resnet.pth', '--out-dir', out, *SHORT
    assert call('cka', *arguments, draw=True) is None
    text, result = capsys.readouterr().out, read_result(out)
    swin, resnet = result['models']
    assert result['images'] == 12 and result['batch_size'] == 4 and result['size'] == 64 and result['pool'] == 'none'
    assert swin['labels'] == ['1.1', '1.2', '2.1', '2.2', '3.1', '3.2', '3.3', '3.4', '4.1', '4.2']
    assert resnet['blocks'] == [f'layer{stage}.{number}' for stage in range(1, 5) for number in range(2)]
    cross = result['cross']
    assert to_matrix(cross).shape == (10, 8) and (cross['rows'], cross['columns']) == ('swin', 'resnet')
    for model in result['models']:
        found, count = to_matrix(model), len(model['labels'])
        np.testing.assert_allclose(np.diag(found), 1, rtol=1e-12)
        np.testing.assert_allclose(found, found.T, rtol=1e-10)
        assert model['mean_off_diagonal'] == pytest.approx((found.sum() - count) / (count * (count - 1)))
        assert model['mean_off_diagonal_by_stage']['2'] == pytest.approx(found[2, 3])
        assert f'{model["mean_off_diagonal"]:.3f}' in text
    parts = [*record_batches(folder, 'swin', ['2.1', '4.2']), *record_batches(folder, 'resnet', ['3.1'])]
    expected = compute_directly(*parts)
    assert to_matrix(swin)[2, 9] == pytest.approx(expected[0, 1], rel=1e-8)
    np.testing.assert_allclose(to_matrix(cross)[[2, 9], 4], expected[:2, 2], rtol=1e-8)
    assert Image.open(out / 'cka.png').size[0] > 1200


@pytest.mark.full  # ERF's test of the same code is in `make test`
def test_interrupted_and_continued_is_the_same_bits(folder, capsys, monkeypatch):
    arguments = folder / 'swin.py', folder / 'swin.pth', '--blocks', '3.*', '--pool', 'mean', *SHORT
    assert call('cka', *arguments, '--out-dir', folder / 'whole') is None
    monkeypatch.setattr(module, 'estimate_hsic', InterruptedFunction(estimate_hsic, 1))
    assert call('cka', *arguments, '--out-dir', folder / 'parts') == 130
    assert 'the same command goes on from here' in capsys.readouterr().err and not (folder / 'parts' / 'cka.json').exists()
    rest = InterruptedFunction(estimate_hsic)
    monkeypatch.setattr(module, 'estimate_hsic', rest)
    assert call('cka', *arguments, '--out-dir', folder / 'parts') is None and rest.calls == 2
    assert (folder / 'whole' / 'cka.json').read_bytes() == (folder / 'parts' / 'cka.json').read_bytes()
    assert read_result(folder / 'whole')['models'][0]['labels'] == ['3.1', '3.2', '3.3', '3.4']
    assert call('cka', *arguments, '--out-dir', folder / 'parts') is None and rest.calls == 2
    assert call('cka', *arguments, '--out-dir', folder / 'parts', '--pool', 'none') is None and rest.calls == 5


def test_three_models_have_a_matrix_each_and_a_part_of_a_batch_is_left_out(folder):
    arguments = folder / 'swin.py', folder / 'swin.pth', folder / 'swin.py', folder / 'crops.py', folder / 'crops.pth'
    assert call('cka', *arguments, '--out-dir', folder / 'three', *SHORT, '--batch-size', 5) is None
    result = read_result(folder / 'three')
    assert [model['name'] for model in result['models']] == ['swin', 'swin (start)', 'crops']
    assert 'cross' not in result and result['images'] == 10
    trained, start, _ = map(to_matrix, result['models'])
    assert trained.shape == start.shape == (10, 10) and not np.allclose(trained, start)


ERRORS = {
    'no block': (('--blocks', '3.1', '5.1'), r"blocks='5.1' .* AdaptedSwin has the blocks 1.1 \(stages.0.blocks.0\), "),
    'one block': (('--blocks', '3.1'), 'swin has 1 such block'),
    'a small batch': (('--batch-size', '3'), 'batch.size=3 .* at least 4 images'),
    'few images': (('--num-images', '5', '--batch-size', '8'), 'there are 5 images, which do not fill a batch'),
    'windows': (('--blocks', 'stages.0.blocks.*.attn.w_msa'), 'samples for 4 images'),
    'small images': (('--size', '100'), 'less than the crop'),
    'of another config': (('crops.py', 'swin.pth'), 'does not fit'),
}


@pytest.mark.parametrize('case', ERRORS)
def test_wrong_input_is_one_sentence(case, folder, monkeypatch):
    monkeypatch.chdir(folder)
    arguments, message = ERRORS[case]
    code = call('cka', 'swin.py', 'swin.pth', *arguments[:2] if case == 'of another config' else (), '--out-dir', 'wrong', *SHORT,
                *() if case == 'of another config' else arguments)
    assert isinstance(code, str) and len(code.splitlines()) == 1
    assert re.search(message, code), code
    assert not (folder / 'wrong').exists()


def test_similarity_of_sums_that_are_rounded_below_zero():
    assert np.isnan(normalize_hsic(np.array([[-1e-20, 0.], [0., 2.]]))[0]).all()
