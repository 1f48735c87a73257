"""Where the file of a checkpoint comes from, and what is no checkpoint leaves nothing behind."""
import io

import pytest
import torch

from helpers.cases import METHODS, TINY_SWIN
from helpers.web_site import serve
from mmparax.backbones import AdaptedSwin
from mmparax.weights.sources import fetch


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web site, and an empty cache of downloads."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    with serve(tmp_path / 'site') as site:
        yield site


@pytest.fixture
def cache(tmp_path):
    """The folder of the downloads."""
    return tmp_path / 'cache' / 'hub' / 'checkpoints'


BAD_ANSWERS = {
    'page': (b'\n<!DOCTYPE html><html>Sign in</html>', r"did not answer with a checkpoint.*'swin.pth' is a web page"),
    'truncated': (None, 'did not answer with a checkpoint.*truncated or damaged'),
    'empty': (b'', 'did not answer with a checkpoint.*truncated or damaged'),
}


@pytest.mark.parametrize('case', BAD_ANSWERS)
def test_a_url_that_is_no_checkpoint_leaves_nothing(case, site, cache):
    content, message = BAD_ANSWERS[case]
    if content is None:
        buffer = io.BytesIO()
        torch.save({'a': torch.ones(1000)}, buffer)
        content = buffer.getvalue()[:2000]
    (site.folder / 'swin.pth').write_bytes(content)
    model = AdaptedSwin(adapter=METHODS['frozen'][0], base_checkpoint=site.url + 'swin.pth', **TINY_SWIN)
    with pytest.raises(ValueError, match=message):
        model.init_weights()
    assert not list(cache.iterdir())


def test_two_urls_with_the_same_file_name_are_two_files(site):
    for number in (1, 2):
        (site.folder / str(number)).mkdir()
        torch.save({'a': torch.full((1, ), float(number))}, site.folder / str(number) / 'model.pth')
    paths = [fetch(f'{site.url}{number}/model.pth') for number in (1, 2, 1, 2)]
    assert [torch.load(path)['a'].item() for path in paths] == [1, 2, 1, 2] and len(site.asked) == 2


def test_a_digest_in_the_name_is_checked(site, cache):
    torch.save({'a': torch.ones(1)}, site.folder / 'swin-0123abcd.pth')
    with pytest.raises(FileNotFoundError, match='invalid hash value'):
        fetch(site.url + 'swin-0123abcd.pth')
    assert not list(cache.iterdir())


def test_a_failed_download_names_the_place_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))

    def download(*_, **__):
        raise OSError('unreachable')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    with pytest.raises(FileNotFoundError, match='could not be downloaded.*unreachable.*swin.pth'):
        fetch('https://example.org/files/swin.pth')
