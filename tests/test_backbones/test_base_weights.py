"""The base is really the base: what is loaded, what is refused, and that a random base never runs unnoticed."""
import copy
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmpretrain.models.backbones import SwinTransformer
from safetensors.torch import save_file

from helpers.base_files import microsoft
from helpers.cases import TINY_SWIN, build, images
from helpers.hostile import Hostile
from mmparax.backbones import AdaptedSwin
from mmparax.backbones.base_weights import BaseSource

FROZEN = dict(type='mmparax.Frozen')


@pytest.fixture
def weights():
    return {name: torch.randn_like(value) for name, value in SwinTransformer(**TINY_SWIN).named_parameters()}


def make(path, **options):
    return AdaptedSwin(**{**dict(adapter=FROZEN, base_checkpoint=str(path)), **TINY_SWIN, **options})


def assert_loaded(model, weights):
    for name, parameter in model.named_parameters():
        if not name.startswith('norm'):
            assert torch.equal(parameter, weights[name]), name


@pytest.mark.parametrize('wrap', ['model', 'state_dict', None])
@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.', 'module.backbone.'])
@pytest.mark.parametrize('layout', [microsoft, dict])
def test_every_layout_gives_the_same_base(weights, tmp_path, wrap, prefix, layout):
    content = {prefix + name: value for name, value in layout(weights).items()}
    torch.save({wrap: content} if wrap else content, tmp_path / 'base.pth')
    assert_loaded(make(tmp_path / 'base.pth'), weights)


@pytest.mark.parametrize('out_indices', [(3, ), (1, 2)], ids=str)
def test_norms_of_other_outputs_are_no_obstacle(weights, tmp_path, out_indices):
    torch.save(weights, tmp_path / 'base.pth')
    assert_loaded(make(tmp_path / 'base.pth', out_indices=out_indices), weights)


@pytest.mark.parametrize('adapter', [None, FROZEN, dict(type='mmparax.AdaRoute', hidden_dim=4)], ids=str)
def test_base_survives_init_weights_and_deepcopy(weights, tmp_path, adapter):
    save_file(weights, str(tmp_path / 'base.safetensors'))
    model = make(tmp_path / 'base.safetensors', adapter=adapter)
    before = copy.deepcopy(model.state_dict())
    parent = BaseModule()
    parent.backbone = model
    parent.init_weights()
    other = copy.deepcopy(model)
    for state in (model.state_dict(), other.state_dict()):
        assert all(torch.equal(state[name], value) for name, value in before.items())
    assert other.eval()(images())


def corrupted(weights, kind):
    weights = dict(weights)
    name = 'stages.2.blocks.1.attn.w_msa.qkv.weight'
    if kind == 'missing':
        del weights[name]
    elif kind == 'shape':
        weights[name] = weights[name][:-1]
    elif kind == 'unexpected':
        weights['stages.2.blocks.7.norm1.weight'] = torch.ones(3)
    return weights


@pytest.mark.parametrize('kind, message', [
    ('missing', r'1 \(stages.2.blocks.1.attn.w_msa.qkv.weight\) missing'),
    ('shape', r'1 \(stages.2.blocks.1.attn.w_msa.qkv.weight \(95, 32\) instead of \(96, 32\)\) of another shape'),
    ('unexpected', r'1 \(stages.2.blocks.7.norm1.weight\) unexpected'),
])
def test_wrong_keys_are_listed(weights, tmp_path, kind, message):
    torch.save(corrupted(weights, kind), tmp_path / 'base.pth')
    with pytest.raises(ValueError, match=f"base.pth' does not fit AdaptedSwin: of .*{message}.*nothing was loaded"):
        make(tmp_path / 'base.pth')


def test_base_of_another_arch_is_refused(tmp_path):
    other = SwinTransformer(**{**TINY_SWIN, 'arch': dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1])})
    torch.save(other.state_dict(), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='does not fit.*missing.*of another shape.*Give the file of this arch'):
        make(tmp_path / 'other.pth')


def test_nothing_is_copied_when_something_is_wrong(weights, tmp_path):
    torch.save(corrupted(weights, 'missing'), tmp_path / 'base.pth')
    model = AdaptedSwin(adapter=FROZEN, allow_random_base=True, **TINY_SWIN)
    before = copy.deepcopy(model.state_dict())
    model.base_checkpoint = str(tmp_path / 'base.pth')
    with pytest.raises(ValueError):
        model.load_base()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize('name', ['base.pth', 'base.safetensors'])
@pytest.mark.parametrize('keep', [0, 10, 0.5, 0.99])
def test_truncated_files_are_refused(weights, tmp_path, name, keep):
    path = tmp_path / name
    (save_file(weights, str(path)) if name.endswith('safetensors') else torch.save(weights, path))
    content = path.read_bytes()
    path.write_bytes(content[:keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(ValueError, match=f"{name}' (is truncated or damaged|was not loaded: it is damaged)"):
        make(path)


def test_a_hostile_pickle_runs_nothing(tmp_path):
    for number, write in enumerate([torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))]):
        path, trace = tmp_path / f'base{number}.pth', tmp_path / f'trace{number}'
        write({'model': Hostile(trace)}, path)
        with pytest.raises(ValueError, match='damaged'):
            make(path)
        assert not trace.exists()


def test_a_checkpoint_of_a_training_run_is_read(weights, tmp_path):
    history = HistoryBuffer()
    history.update(1.5)
    torch.save(
        {
            'state_dict': {f'backbone.{name}': value for name, value in weights.items()},
            'message_hub': {'loss': history, 'lr': np.float64(1e-3)}, 'meta': {'seed': np.int64(3)}
        }, tmp_path / 'run.pth')
    assert_loaded(make(tmp_path / 'run.pth'), weights)


@pytest.mark.parametrize('content', [{}, {'model': {}}, [1, 2], {'epoch': 3}], ids=str)
def test_files_without_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / 'base.pth')
    with pytest.raises(ValueError, match='holds no weights'):
        make(tmp_path / 'base.pth')


def test_a_missing_file_is_found_out_before_training(tmp_path):
    model = make(tmp_path / 'absent.pth')
    with pytest.raises(RuntimeError, match="random base.*absent.pth.*allow_random_base=True"):
        model(images())
    with pytest.raises(FileNotFoundError, match="base_checkpoint='.*absent.pth' does not exist"):
        model.init_weights()


def test_a_file_that_comes_later_is_loaded_by_init_weights(weights, tmp_path):
    model = make(tmp_path / 'base.pth', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4))
    torch.save(weights, tmp_path / 'base.pth')
    model.init_weights()
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items() if not name.startswith('norm'))
    assert model.eval()(images())


@pytest.mark.parametrize('adapter', [None, FROZEN], ids=['full', 'frozen'])
def test_a_random_base_does_not_run_unasked(adapter):
    model = AdaptedSwin(adapter=adapter, **TINY_SWIN)
    for _ in range(2):
        with pytest.raises(RuntimeError, match='allow_random_base=True'):
            model(images())
        model.init_weights()
    assert AdaptedSwin(adapter=adapter, allow_random_base=True, **TINY_SWIN).eval()(images())


def test_a_complete_checkpoint_stands_in_for_the_base():
    source, model = build('adaroute').eval(), build('adaroute', allow_random_base=False).eval()
    partial = {name: value for name, value in source.state_dict().items() if 'adapters' in name}
    model.load_state_dict(partial, strict=False)
    with pytest.raises(RuntimeError):
        model(images())
    model.load_state_dict(source.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(source(images()), model(images())))
    model.init_weights()  # does not undo it
    assert all(torch.equal(a, b) for a, b in zip(source(images()), model(images())))


def test_a_partial_checkpoint_fetches_the_base(weights, tmp_path):
    source = build('adaroute')
    model = make(tmp_path / 'base.pth', adapter=dict(type='mmparax.AdaRoute', hidden_dim=8, router_dim=6))
    torch.save(weights, tmp_path / 'base.pth')
    partial = {name: value for name, value in source.state_dict().items() if 'adapters' in name}
    model.load_state_dict(partial, strict=False)
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in partial.items())
    assert all(torch.equal(state[name], value) for name, value in weights.items() if not name.startswith('norm'))


def test_a_url_is_cached_where_torch_keeps_downloads(weights, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    url, downloads = 'https://example.org/files/swin.pth', []

    def download(source, target, **_):
        downloads.append(source)
        torch.save(weights, target)

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    model = make(url)
    assert not downloads  # building downloads nothing
    model.init_weights()
    assert downloads == [url]
    assert_loaded(model, weights)
    assert_loaded(make(url), weights)  # now at hand, loaded at once
    assert downloads == [url]


def test_the_shipped_base_fits_its_config():
    model = AdaptedSwin(arch=dict(embed_dims=24, depths=[2, 2, 4, 2], num_heads=[1, 2, 4, 8]), window_size=4, adapter=FROZEN,
                        out_indices=(0, 1, 2, 3), base_checkpoint='mmparax://swin_mini_glyphs.safetensors')
    assert model.base_source is BaseSource.FILE
    with pytest.raises(FileNotFoundError, match='mmparax://absent.safetensors'):
        make('mmparax://absent.safetensors').init_weights()
