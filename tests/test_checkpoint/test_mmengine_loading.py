"""What any toolbox loads goes through the safe reader, and what does not fit is refused as a whole."""
import io

import pytest
import torch
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file
from torch import nn

import mmparax
from helpers.cases import build
from helpers.hostile import Hostile
from helpers.runs import SHALLOW
from helpers.web_site import serve
from mmparax.checkpoint.fingerprint import describe
from mmparax.checkpoint.installation import install
from mmparax.errors import InputError
from mmparax.weights.adapter_file import get_description
from mmparax.weights.metadata import encode_meta


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


@pytest.mark.parametrize('how', ['local', 'http', 'torchvision', 'stream'])
def test_a_hostile_file_runs_nothing_whoever_loads_it(how, site, cache, tmp_path, monkeypatch):
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
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize('source', ['s3://bucket/a.pth', 'open-mmlab:s3://bucket/a.pth', 'pavi://a'])
def test_a_storage_that_could_only_be_read_unsafely_is_refused(source, monkeypatch):
    """As by versions of mmengine whose loaders call torch.load themselves."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    monkeypatch.delattr(mmengine_checkpoint, '_safe_torch_load')
    install()
    with pytest.raises(InputError, match='was not loaded: this version of mmengine would run code'):
        CheckpointLoader.load_checkpoint(source)


def test_ordinary_files_load_as_before(site, cache, tmp_path):
    weights = nn.Linear(2, 3).state_dict()
    torch.save(dict(state_dict=weights, meta=dict(epoch=1)), site.folder / 'a.pth')
    save_file(weights, tmp_path / 'a.safetensors', metadata=dict(note='kept'))
    for source in (str(site.folder / 'a.pth'), site.url + 'a.pth', site.url + 'a.pth', str(tmp_path / 'a.safetensors')):
        model = nn.Linear(2, 3)
        content = load_checkpoint(model, source, map_location='cpu')
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert content['meta'] == dict(note='kept')
    assert site.asked == ['/a.pth'] and {path.name for path in cache.iterdir()} == {'a.pth', 'a.pth.url'}
    with pytest.raises(FileNotFoundError, match="checkpoint='absent.pth' does not exist"):
        load_checkpoint(nn.Linear(2, 3), 'absent.pth')


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
    'other method': (lambda s: state_of('toy-stream'),
                     r'of its \d+ weights \d+ \(stages.*\) missing; \d+ \(stages.*\) unexpected'),
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
    with pytest.raises(
            ValueError, match=r"trained on another base than '.*base.pth', which AdaptedSwin has loaded: \d+ \(.*"
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
    trained = {
        name: value for name, value in source.state_dict().items()
        if dict(source.named_parameters()).get(name, value).requires_grad
    }
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
    torch.save(
        dict(state_dict=state, ema_state_dict={f'module.{name}': value for name, value in state.items()},
             meta=dict(mmparax=describe(source))), tmp_path / 'small.pth')
    content = CheckpointLoader.load_checkpoint(str(tmp_path / 'small.pth'))
    same, other = (Model('adaroute', allow_random_base=False, base_checkpoint=str(tmp_path / f'{name}.pth'))
                   for name in ('one', 'two'))
    lines = []
    monkeypatch.setattr('mmparax.backbones.base_weights.print_log', lambda text, **_: lines.append(text))
    for key, models in (('state_dict', (same, other)), ('ema_state_dict',
                                                        [nn.ModuleDict(dict(module=model)) for model in (same, other)])):
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
    assert get_description(CheckpointLoader.load_checkpoint(str(tmp_path / 'small.pth'))) is None
    with pytest.raises(ValueError, match='the checkpoint holds no frozen base and does not say on which one it was trained'):
        load_checkpoint(source, str(tmp_path / 'small.pth'))
    save_file(state, tmp_path / 'small.safetensors', encode_meta(dict(mmparax=about)))
    with pytest.raises(ValueError, match='the checkpoint holds no frozen base and does not say on which one it was trained'):
        load_checkpoint(source, str(tmp_path / 'small.safetensors'))


@pytest.mark.parametrize('late', [False, True])
def test_a_small_checkpoint_on_another_base_is_told_by_its_fingerprint(late, tmp_path):
    """By mmengine's own loading, without a runner; also when the base comes only with the checkpoint."""
    for name in ('one', 'two'):
        torch.save(build('frozen', **SHALLOW['swin']).state_dict(), tmp_path / f'{name}.pth')
    source = Model('adaroute', allow_random_base=False, base_checkpoint=str(tmp_path / 'one.pth'))
    trained = {
        name: value for name, value in source.state_dict().items()
        if dict(source.named_parameters()).get(name, value).requires_grad
    }
    torch.save(dict(state_dict=trained, meta=dict(mmparax=describe(source))), tmp_path / 'small.pth')
    path = tmp_path / ('late.pth' if late else 'two.pth')
    model = Model('adaroute', allow_random_base=False, base_checkpoint=str(path))
    (tmp_path / 'two.pth').rename(path)
    before = model.state_dict()[ADAPTER].clone()
    with pytest.raises(ValueError, match='the checkpoint was trained on another base: its fingerprint is'):
        load_checkpoint(model, str(tmp_path / 'small.pth'))
    assert torch.equal(model.state_dict()[ADAPTER], before)
