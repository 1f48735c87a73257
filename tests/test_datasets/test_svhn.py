"""Tests of the SVHN data set with small files in the published form."""
import hashlib
import threading
import time

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.datasets import BaseDataset
from scipy.io import savemat
from torchvision.datasets import SVHN as Source

from mmparax.datasets import svhn
from mmparax.datasets.svhn import SVHN

LABELS = [10, 1, 2, 9, 10, 5]  # as in the files, where 10 stands for the digit 0


def write(path, labels, seed):
    """Write a file as the published ones are, and return its images (N, 32, 32, 3)."""
    images = np.random.default_rng(seed).integers(256, size=(len(labels), 32, 32, 3), dtype=np.uint8)
    savemat(path, {'X': images.transpose(1, 2, 3, 0), 'y': np.array(labels, np.uint8)[:, None]})
    return images


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Small files take the place of the published ones, downloads included; holds the images of each split."""
    remote = tmp_path / 'remote'
    remote.mkdir()
    images, listed, downloads = {}, {}, []
    for seed, split in enumerate(Source.split_list):
        path = remote / f'{split}_32x32.mat'
        images[split] = write(path, LABELS[seed:], seed)
        listed[split] = [f'http://example.org/{path.name}', path.name, hashlib.md5(path.read_bytes()).hexdigest()]

    def download(url, target, **_):
        downloads.append(url)
        name = url.rsplit('/', 1)[-1]
        with open(target, 'wb') as file:
            file.write((remote / name).read_bytes())

    monkeypatch.setattr(Source, 'split_list', listed)
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    return dict(images=images, remote=remote, downloads=downloads, root=tmp_path / 'data' / 'svhn')


@pytest.mark.parametrize('split', ['train', 'test', 'extra'])
def test_samples_are_rgb_arrays_and_the_label_ten_is_the_digit_zero(site, split):
    dataset = SVHN(site['remote'], split, download=False)
    first = list(Source.split_list).index(split)
    assert [sample['gt_label'] for sample in dataset] == [label % 10 for label in LABELS[first:]]
    for sample, image in zip(dataset, site['images'][split], strict=True):
        assert sample['img'].dtype == np.uint8 and sample['img'].flags.c_contiguous
        assert np.array_equal(sample['img'], image)
    assert dataset.CLASSES == tuple('0123456789') and not site['downloads']
    assert dataset.test_mode == (split == 'test')
    assert str(site['remote']) in repr(dataset) and f'Split: \t{split}' in repr(dataset)


@pytest.mark.parametrize('scope', ['mmengine', 'mmseg', 'mmdet', 'mmpretrain'])
def test_the_name_resolves_from_every_toolbox(site, scope):
    with DefaultScope.overwrite_default_scope(scope):
        dataset = DATASETS.build(dict(type='mmparax.SVHN', data_root=str(site['remote']), split='test', indices=2))
    assert type(dataset) is SVHN and isinstance(dataset, BaseDataset) and len(dataset) == 2


@pytest.mark.parametrize('training', [True, False])
def test_the_pipelines_of_classification_take_it(site, training):
    grown = [
        dict(type='RandomResizedCrop', scale=48, backend='pillow', interpolation='bicubic'),
        dict(type='RandomFlip', prob=0.5, direction='horizontal')
    ]
    fixed = [
        dict(type='ResizeEdge', scale=56, edge='short', backend='pillow', interpolation='bicubic'),
        dict(type='CenterCrop', crop_size=48)
    ]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        dataset = SVHN(site['remote'], 'train', pipeline=[*(grown if training else fixed), dict(type='PackInputs')])
    sample = dataset[3]
    assert sample['inputs'].shape == (3, 48, 48) and sample['data_samples'].gt_label.tolist() == [9]
    average = site['images']['train'][3].mean((0, 1))
    if not training:  # the channels stay in their order
        assert np.abs(sample['inputs'].float().mean((1, 2)).numpy() - average).max() < 6


@pytest.mark.parametrize('state', ['missing', 'damaged'])
def test_a_file_is_fetched_once_if_it_is_not_there_whole(site, state):
    path = site['root'] / 'train_32x32.mat'
    if state == 'damaged':
        site['root'].mkdir(parents=True)
        path.write_bytes(b'half a file')
    for _ in range(2):
        assert len(SVHN(site['root'], 'train')) == len(LABELS)
    assert site['downloads'] == ['http://example.org/train_32x32.mat']
    assert list(site['root'].iterdir()) == [path]


@pytest.mark.parametrize('state, error, said', [('missing', FileNotFoundError, "there is no '{path}'"),
                                                ('damaged', ValueError, "the MD5 sum of '{path}' is not the")])
def test_without_download_the_parameter_the_file_and_the_remedy_are_named(site, state, error, said):
    path = site['root'] / 'test_32x32.mat'
    if state == 'damaged':
        site['root'].mkdir(parents=True)
        path.write_bytes(b'half a file')
    with pytest.raises(error) as refused:
        SVHN(site['root'], 'test', download=False)
    text = str(refused.value)
    assert text.startswith(f"data_root='{site['root']}' cannot be used with split='test': {said.format(path=path)}")
    assert 'Set download=True, or download http://example.org/test_32x32.mat by other means' in text
    assert not site['downloads'] and (state == 'missing' or path.read_bytes() == b'half a file')


@pytest.mark.parametrize('problem', ['unreachable', 'another file', 'no permission'])
def test_a_failed_download_leaves_nothing_and_names_the_place(site, monkeypatch, problem):

    def fail(url, target, **_):
        raise OSError('unreachable')

    if problem == 'unreachable':
        monkeypatch.setattr(torch.hub, 'download_url_to_file', fail)
    elif problem == 'another file':
        (site['remote'] / 'train_32x32.mat').write_text('<html>Sign in</html>')
    else:
        site['root'].parent.write_text('a file in the way')
    with pytest.raises(FileNotFoundError) as failed:
        SVHN(site['root'], 'train')
    text = str(failed.value)
    assert text.startswith(f"data_root='{site['root']}' cannot be used with split='train': there is no '{site['root']}/train_")
    assert 'and http://example.org/train_32x32.mat could not be downloaded (' in text
    assert 'download http://example.org/train_32x32.mat by other means and put it there, or set data_root' in text
    assert not site['root'].exists() or not list(site['root'].iterdir())


def test_the_other_processes_of_a_machine_wait_for_the_first(site, monkeypatch):
    site['root'].mkdir(parents=True)
    path = site['root'] / 'train_32x32.mat'
    path.write_bytes(b'half a file')
    monkeypatch.setenv('LOCAL_RANK', '1')

    def first_process():
        time.sleep(0.7)
        part = site['root'] / 'part'
        part.write_bytes((site['remote'] / path.name).read_bytes())
        part.replace(path)

    thread = threading.Thread(target=first_process)
    thread.start()
    dataset = SVHN(site['root'], 'train')
    thread.join()
    assert len(dataset) == len(LABELS) and not site['downloads']


def test_waiting_ends(site, tmp_path):
    with pytest.raises(FileNotFoundError, match='was not downloaded within 0 s'):
        svhn._wait_for(tmp_path / 'train_32x32.mat', 'digest', seconds=0)


@pytest.mark.parametrize('arguments, said',
                         [(dict(split='val'), "split='val' is not allowed: choose one of 'train', 'test', 'extra'"),
                          (dict(data_root=''), "data_root=''"), (dict(data_root=None), 'data_root=None is not allowed')])
def test_wrong_arguments_are_named(site, arguments, said):
    with pytest.raises(ValueError) as refused:
        SVHN(**{**dict(data_root=str(site['remote'])), **arguments})
    assert str(refused.value).startswith(said)
