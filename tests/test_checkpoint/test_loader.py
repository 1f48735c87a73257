"""What any toolbox loads goes through the safe reader, and what does not fit is refused as a whole."""
import datetime
import io
import pickle
import threading
import zipfile
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file
from torch import nn

import mmparax
from helpers.cases import METHODS, TINY_SWIN, build
from helpers.hostile import Hostile, through_getattr
from helpers.runs import SHALLOW
from mmparax.backbones import AdaptedSwin
from mmparax.checkpoint.fingerprint import describe
from mmparax.weights.adapter_file import description
from mmparax.weights.metadata import as_text
from mmparax.weights.sources import fetch


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web server with the files of a folder, and an empty cache of downloads."""
    folder, asked = tmp_path / 'site', []
    folder.mkdir()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))

    class Handler(BaseHTTPRequestHandler):

        def do_GET(self):
            asked.append(self.path)
            body = (folder / self.path[1:]).read_bytes()
            self.send_response(200)
            self.send_header('Content-Length', len(body))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(('127.0.0.1', 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    site = type('Site', (), dict(folder=folder, url=f'http://127.0.0.1:{server.server_port}/', asked=asked,
                                 cache=tmp_path / 'cache' / 'hub' / 'checkpoints'))
    yield site
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize('how', ['local', 'http', 'torchvision', 'stream'])
def test_a_hostile_file_runs_nothing_whoever_loads_it(how, site, tmp_path, monkeypatch):
    trace, path = tmp_path / 'trace', site.folder / 'weights.pth'
    torch.save({'state_dict': {'a': torch.ones(1)}, 'meta': Hostile(trace)}, path)
    sources = dict(local=str(path), http=site.url + 'weights.pth', torchvision='torchvision://weights')
    monkeypatch.setattr(mmengine_checkpoint, 'get_torchvision_models', lambda: {'weights': site.url + 'weights.pth'})
    with pytest.raises(ValueError, match='damaged or holds more than tensors and plain data'):
        if how == 'stream':  # what mmengine calls for s3://
            mmengine_checkpoint._safe_torch_load(io.BytesIO(path.read_bytes()))
        else:
            CheckpointLoader.load_checkpoint(sources[how])
    assert not trace.exists()
    assert not site.cache.exists() or not list(site.cache.iterdir())


@pytest.mark.parametrize('archive', [False, True])
def test_no_way_through_what_is_allowed(archive, tmp_path):
    path, attack = tmp_path / 'a.pth', through_getattr(tmp_path / 'trace')
    path.write_bytes(attack)
    if archive:
        torch.save({'a': torch.ones(1)}, tmp_path / 'whole.pth')
        with zipfile.ZipFile(tmp_path / 'whole.pth') as whole, zipfile.ZipFile(path, 'w') as changed:
            for part in whole.infolist():
                changed.writestr(part, attack if part.filename.endswith('data.pkl') else whole.read(part))
    with pytest.raises(ValueError, match="holds more than tensors and plain data .*getattr of '__init__'"):
        CheckpointLoader.load_checkpoint(str(path))
    assert not (tmp_path / 'trace').exists()


def test_what_runs_and_tools_write_is_read(tmp_path):
    history = HistoryBuffer()
    history.update(2.)
    content = dict(
        history=history, palette=np.zeros((3, 3), np.uint8), names=np.array(['a', 'bc']), half=np.float16(1), text=np.str_('x'),
        path=Path('a/b'), date=datetime.datetime(2020, 1, 2), kinds=frozenset('a'), state=OrderedDict(a=1), number=np.int8(3),
        flags=np.array([True]), large=np.arange(3, dtype=np.uint64))
    torch.save(content, tmp_path / 'a.pth')
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))
    assert loaded.pop('history').mean() == content.pop('history').mean() == 2.
    assert repr(loaded) == repr(content)


def test_plain_pickles_are_refused_too(tmp_path):
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(Hostile(tmp_path / 'trace')))
    with pytest.raises(ValueError, match='damaged'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pkl'))
    assert not (tmp_path / 'trace').exists()


def test_ordinary_files_load_as_before(site, tmp_path):
    weights = nn.Linear(2, 3).state_dict()
    torch.save(dict(state_dict=weights, meta=dict(epoch=1)), site.folder / 'a.pth')
    save_file(weights, tmp_path / 'a.safetensors', metadata=dict(note='kept'))
    for source in (str(site.folder / 'a.pth'), site.url + 'a.pth', site.url + 'a.pth', str(tmp_path / 'a.safetensors')):
        model = nn.Linear(2, 3)
        content = load_checkpoint(model, source, map_location='cpu')
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert content['meta'] == dict(note='kept')
    assert site.asked == ['/a.pth'] and {path.name for path in site.cache.iterdir()} == {'a.pth', 'a.pth.url'}
    with pytest.raises(FileNotFoundError, match="checkpoint='absent.pth' does not exist"):
        load_checkpoint(nn.Linear(2, 3), 'absent.pth')


BAD_ANSWERS = {
    'page': (b'\n<!DOCTYPE html><html>Sign in</html>', r"did not answer with a checkpoint.*'swin.pth' is a web page"),
    'truncated': (None, 'did not answer with a checkpoint.*truncated or damaged'),
    'empty': (b'', 'did not answer with a checkpoint.*truncated or damaged'),
}


@pytest.mark.parametrize('case', BAD_ANSWERS)
def test_a_url_that_is_no_checkpoint_leaves_nothing(case, site):
    content, message = BAD_ANSWERS[case]
    if content is None:
        buffer = io.BytesIO()
        torch.save({'a': torch.ones(1000)}, buffer)
        content = buffer.getvalue()[:2000]
    (site.folder / 'swin.pth').write_bytes(content)
    model = AdaptedSwin(adapter=METHODS['frozen'][0], base_checkpoint=site.url + 'swin.pth', **TINY_SWIN)
    with pytest.raises(ValueError, match=message):
        model.init_weights()
    assert not list(site.cache.iterdir())


@pytest.mark.parametrize('content', [b'hello', b'checkpoint\n', b'', b'# a script', b'\x89PNG'], ids=repr)
def test_what_is_no_checkpoint_is_called_so(content, tmp_path):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(ValueError, match='no checkpoint at all: it is neither a torch nor a safetensors file. Check the path'):
        load_checkpoint(nn.Linear(1, 1), str(tmp_path / 'a.pth'))


def test_two_urls_with_the_same_file_name_are_two_files(site):
    for number in (1, 2):
        (site.folder / str(number)).mkdir()
        torch.save({'a': torch.full((1, ), float(number))}, site.folder / str(number) / 'model.pth')
    paths = [fetch(f'{site.url}{number}/model.pth') for number in (1, 2, 1, 2)]
    assert [torch.load(path)['a'].item() for path in paths] == [1, 2, 1, 2] and len(site.asked) == 2


def test_a_digest_in_the_name_is_checked(site):
    torch.save({'a': torch.ones(1)}, site.folder / 'swin-0123abcd.pth')
    with pytest.raises(FileNotFoundError, match='invalid hash value'):
        fetch(site.url + 'swin-0123abcd.pth')
    assert not list(site.cache.iterdir())


class Model(nn.Module):

    def __init__(self, method, **options):
        super().__init__()
        self.backbone = build(method, **{**SHALLOW['swin'], **options})
        self.head = nn.Conv2d(64, 3, 1)


def change(state, **changes):
    state = dict(state)
    for name, value in changes.items():
        state.pop(name, None)
        if value is not None:
            state[name] = value
    return state


def state_of(method, **options):
    return Model(method, **options).state_dict()


ADAPTER = 'backbone.stages.0.blocks.0.adapters.after_token_mixer.norm_scale'
BASE = 'backbone.stages.0.blocks.0.norm1.weight'
MISFITS = {
    'other method': (lambda s: state_of('toy-stream'), r'of its \d+ weights \d+ \(stages.*\) missing; \d+ \(stages.*\) unexpected'),
    'no method': (lambda s: state_of('frozen'), r'\(stages.*adapters.*\) missing\. Give the checkpoint of this config'),
    'other width': (lambda s: state_of(dict(type='mmparax.AdaRoute', hidden_dim=4, router_dim=6)), 'of another shape'),
    'other arch': (lambda s: state_of('adaroute', arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8])),
                   r'\(stages.2.blocks.1.*missing'),
    'one missing': (lambda s: change(s, **{ADAPTER: None}), rf'1 \({ADAPTER[9:]}\) missing'),
    'one too many': (lambda s: change(s, **{ADAPTER + '_too': torch.ones(1)}), rf'1 \({ADAPTER[9:]}_too\) unexpected'),
    'half a base': (lambda s: change(s, **{BASE: None}), rf'1 \({BASE[9:]}\) missing'),
    'base of another shape': (lambda s: change(s, **{BASE: torch.ones(3)}), rf'1 \({BASE[9:]} \(3,\) instead of \(8,\)'),
}


@pytest.mark.parametrize('case', MISFITS)
def test_a_checkpoint_that_does_not_fit_changes_nothing(case, tmp_path):
    make, message = MISFITS[case]
    model = Model('adaroute')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.save(dict(state_dict=make(model.state_dict()), meta={}), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=f'the checkpoint does not fit AdaptedSwin: .*{message}'):
        load_checkpoint(model, str(tmp_path / 'a.pth'))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_on_another_base_changes_nothing(tmp_path):
    torch.save(build('frozen', **SHALLOW['swin']).state_dict(), tmp_path / 'base.pth')
    model = Model('adaroute', allow_random_base=False, base_checkpoint=str(tmp_path / 'base.pth'))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    same = change(state_of('adaroute'), **{name: value for name, value in before.items() if 'adapters' not in name})
    torch.save(dict(state_dict=same), tmp_path / 'same.pth')
    load_checkpoint(model, str(tmp_path / 'same.pth'))
    assert torch.equal(model.state_dict()[ADAPTER], same[ADAPTER])
    torch.save(dict(state_dict=state_of('adaroute')), tmp_path / 'other.pth')
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"trained on another base than '.*base.pth', which AdaptedSwin has loaded: \d+ \(.*"
                                         r'\) of \d+ frozen weights differ'):
        load_checkpoint(model, str(tmp_path / 'other.pth'))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match='trained on another base'):  # torch's own loading, only a part of another base
        model.load_state_dict({BASE: before[BASE] + 1}, strict=False)
    assert torch.equal(model.state_dict()[BASE], before[BASE])


def test_a_half_precision_copy_of_the_same_base_is_the_same_base(tmp_path):
    torch.save(build('frozen', **SHALLOW['swin']).state_dict(), tmp_path / 'base.pth')
    model = Model('frozen', allow_random_base=False, base_checkpoint=str(tmp_path / 'base.pth'))
    torch.save({name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()},
               tmp_path / 'half.pth')
    before = mmparax.fingerprint(model)
    load_checkpoint(model, str(tmp_path / 'half.pth'))
    assert mmparax.fingerprint(model) == before  # the file's own weights stay, unrounded


def test_a_checkpoint_of_what_trains_is_enough(tmp_path):
    """The frozen base may be absent as a whole: it comes from the base."""
    torch.save(build('frozen', **SHALLOW['swin']).state_dict(), tmp_path / 'base.pth')
    source = Model('adaroute', allow_random_base=False, base_checkpoint=str(tmp_path / 'base.pth'))
    trained = {name: value for name, value in source.state_dict().items()
               if dict(source.named_parameters()).get(name, value).requires_grad}
    torch.save(dict(state_dict=trained), tmp_path / 'small.pth')
    model = Model('adaroute', allow_random_base=False, base_checkpoint=str(tmp_path / 'base.pth'))
    for buffers in (False, True):  # buffers of the base are computed again, whether or not the file has them
        kept = {name: value for name, value in trained.items() if buffers or 'relative_position_index' not in name}
        torch.save(dict(state_dict=kept, meta=dict(mmparax=describe(source))), tmp_path / 'small.pth')
        load_checkpoint(model, str(tmp_path / 'small.pth'))
        assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.fixture
def small(tmp_path):
    """A model on one base, and its state dict without the base's parameters but with its buffers; another base is there."""
    for name in ('one', 'two'):
        torch.save(build('frozen', **SHALLOW['swin']).state_dict(), tmp_path / f'{name}.pth')
    source = Model('adaroute', allow_random_base=False, base_checkpoint=str(tmp_path / 'one.pth'))
    frozen = {name for name, parameter in source.named_parameters() if not parameter.requires_grad}
    return source, {name: value for name, value in source.state_dict().items() if name not in frozen}


@pytest.mark.parametrize('meta', [True, False], ids=['described', 'not described'])
@pytest.mark.parametrize('base', ['two', None], ids=['another base', 'random base'])
def test_buffers_of_a_base_do_not_make_it_whole(base, meta, small, tmp_path):
    source, state = small
    assert any('relative_position_index' in name for name in state)
    torch.save(dict(state_dict=state, meta=dict(mmparax=describe(source)) if meta else {}), tmp_path / 'small.pth')
    model = Model('adaroute', allow_random_base=base is None, base_checkpoint=base and str(tmp_path / f'{base}.pth'))
    before = model.state_dict()[ADAPTER].clone()
    with pytest.raises(ValueError, match='was trained on' if meta else 'does not say on which one it was trained'):
        load_checkpoint(model, str(tmp_path / 'small.pth'))
    assert torch.equal(model.state_dict()[ADAPTER], before)


def test_by_torch_a_small_state_dict_is_compared_where_it_says_its_base(small, tmp_path, monkeypatch):
    source, state = small
    torch.save(dict(state_dict=state, ema_state_dict={f'module.{name}': value for name, value in state.items()},
                    meta=dict(mmparax=describe(source))), tmp_path / 'small.pth')
    content = CheckpointLoader.load_checkpoint(str(tmp_path / 'small.pth'))
    same, other = (Model('adaroute', allow_random_base=False, base_checkpoint=str(tmp_path / f'{name}.pth'))
                   for name in ('one', 'two'))
    lines = []
    monkeypatch.setattr('mmparax.backbones.adapted.print_log', lambda text, **_: lines.append(text))
    for key, models in (('state_dict', (same, other)),
                        ('ema_state_dict', [nn.ModuleDict(dict(module=model)) for model in (same, other)])):
        models[0].load_state_dict(content[key])
        with pytest.raises(ValueError, match='the state dict was trained on another base: its fingerprint is'):
            models[1].load_state_dict(content[key])
    load_checkpoint(same, str(tmp_path / 'small.pth'))
    assert not lines
    other.load_state_dict(state)
    assert len(lines) == 1 and 'does not say on which base it was trained: that was not checked' in lines[0]


@pytest.mark.parametrize('about', [dict(format_version=1), dict(format_version=99), dict(format_version=1, source='a')], ids=str)
def test_a_checkpoint_that_calls_itself_an_adapter_file_is_none(about, small, tmp_path):
    source, state = small
    torch.save(dict(state_dict=state, meta=dict(mmparax=about)), tmp_path / 'small.pth')
    assert description(CheckpointLoader.load_checkpoint(str(tmp_path / 'small.pth'))) is None
    with pytest.raises(ValueError, match='the checkpoint holds no frozen base and does not say on which one it was trained'):
        load_checkpoint(source, str(tmp_path / 'small.pth'))
    save_file(state, tmp_path / 'small.safetensors', as_text(dict(mmparax=about)))
    with pytest.raises(ValueError, match='the checkpoint holds no frozen base and does not say on which one it was trained'):
        load_checkpoint(source, str(tmp_path / 'small.safetensors'))


@pytest.mark.parametrize('late', [False, True])
def test_a_small_checkpoint_on_another_base_is_told_by_its_fingerprint(late, tmp_path):
    """By mmengine's own loading, without a runner; also when the base comes only with the checkpoint."""
    for name in ('one', 'two'):
        torch.save(build('frozen', **SHALLOW['swin']).state_dict(), tmp_path / f'{name}.pth')
    source = Model('adaroute', allow_random_base=False, base_checkpoint=str(tmp_path / 'one.pth'))
    trained = {name: value for name, value in source.state_dict().items()
               if dict(source.named_parameters()).get(name, value).requires_grad}
    torch.save(dict(state_dict=trained, meta=dict(mmparax=describe(source))), tmp_path / 'small.pth')
    path = tmp_path / ('late.pth' if late else 'two.pth')
    model = Model('adaroute', allow_random_base=False, base_checkpoint=str(path))
    (tmp_path / 'two.pth').rename(path)
    before = model.state_dict()[ADAPTER].clone()
    with pytest.raises(ValueError, match='the checkpoint was trained on another base: its fingerprint is'):
        load_checkpoint(model, str(tmp_path / 'small.pth'))
    assert torch.equal(model.state_dict()[ADAPTER], before)
