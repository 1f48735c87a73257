"""One base has one fingerprint, however its file is laid out and whatever was put around it."""
import copy

import pytest
import torch
from mmengine.runner import load_checkpoint
from mmpretrain.models.backbones import SwinTransformer
from safetensors.torch import save_file
from torch import nn

import mmparax
from helpers.base_files import microsoft
from helpers.base_files import vit as vit_file
from helpers.cases import METHODS, TINY_SWIN, TINY_VIT, build
from mmparax.backbones import AdaptedSwin, AdaptedViT
from mmparax.backbones.base_weights import BaseSource
from mmparax.deploy.standalone import make_standalone_checkpoint, write_checkpoint


def make(path, adapter='frozen', **options):
    return AdaptedSwin(adapter=METHODS[adapter][0], base_checkpoint=str(path), **{**TINY_SWIN, **options})


def test_every_layout_and_every_method_on_one_base_agree(tmp_path):
    weights = {name: torch.randn_like(value) for name, value in SwinTransformer(**TINY_SWIN).named_parameters()}
    torch.save({'model': microsoft(weights)}, tmp_path / 'microsoft.pth')
    torch.save({'state_dict': {f'backbone.{name}': value for name, value in weights.items()}}, tmp_path / 'openmmlab.pth')
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / 'base.safetensors')
    paths = [tmp_path / name for name in ('microsoft.pth', 'openmmlab.pth', 'base.safetensors')]
    prints = {mmparax.fingerprint(make(path, adapter)) for path in paths for adapter in ('frozen', 'adaroute', 'toy-linear')}
    prints.add(mmparax.fingerprint(make(paths[0], window_size=7, pad_small_map=False, out_indices=(3, ))))
    assert len(prints) == 1 and len(prints.pop()) == 64


def test_belongs_to_the_frozen_weights_alone():
    model = build('adaroute')
    first = mmparax.fingerprint(model)
    assert first == mmparax.fingerprint(copy.deepcopy(model)) == mmparax.fingerprint(nn.ModuleDict(dict(backbone=model)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
        for buffer in model.buffers():
            buffer.zero_()
    assert mmparax.fingerprint(model.train()) == first
    frozen = next(parameter for parameter in model.parameters() if not parameter.requires_grad)
    frozen.data.view(torch.int32)[(0, ) * frozen.dim()] ^= 1  # one bit
    assert mmparax.fingerprint(model) != first
    frozen.data.view(torch.int32)[(0, ) * frozen.dim()] ^= 1
    assert mmparax.fingerprint(model) == first
    assert mmparax.fingerprint(model.double()) != first  # other bytes: another base


def test_two_backbones_have_one_together():
    first, second = build('frozen'), build('frozen')
    both = mmparax.fingerprint(nn.ModuleList([first, second]))
    assert both not in (mmparax.fingerprint(first), mmparax.fingerprint(second))
    assert both != mmparax.fingerprint(nn.ModuleList([second, first]))


def test_what_has_no_frozen_base():
    assert mmparax.fingerprint(build(None)) is None
    with pytest.raises(ValueError, match='Linear holds no backbone of mmparax'):
        mmparax.fingerprint(nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"fingerprint needs a model, not 'iter_3.pth'; .*\['meta'\]\['mmparax'\]"):
        mmparax.fingerprint('iter_3.pth')
    with pytest.raises(RuntimeError, match="AdaptedSwin has no base to identify yet: base_checkpoint='absent.pth'"):
        mmparax.fingerprint(make('absent.pth'))


@pytest.fixture
def vit_base(tmp_path):
    """The file of a ViT, in MAE's layout, with a table of 6 x 6 patches."""
    torch.manual_seed(0)
    source = AdaptedViT(adapter=METHODS['frozen'][0], allow_random_base=True, **TINY_VIT)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    torch.save({'model': vit_file(source.state_dict(), 'mae')}, tmp_path / 'vit.pth')
    return tmp_path / 'vit.pth'


def make_vit(path, adapter='frozen', **options):
    base = dict(allow_random_base=True) if path is None else dict(base_checkpoint=str(path))
    return AdaptedViT(adapter=METHODS[adapter][0], **base, **{**TINY_VIT, **options})


def test_one_base_has_one_fingerprint_whatever_is_made_of_it(vit_base):
    models = [make_vit(vit_base)] + [
        make_vit(vit_base, adapter, **options)
        for adapter, options in [('adaroute', {}), ('bitfit', {}), ('norm-tuning', {}), ('frozen', dict(
            img_size=64)), ('lora', dict(img_size=(16, 144))), ('bitfit', dict(
                img_size=80)), ('frozen', dict(with_cls_token=False)), ('frozen', dict(final_norm=False, img_size=32))]
    ]
    assert len({mmparax.fingerprint(model) for model in models}) == 1
    tuned = models[2]
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    assert mmparax.fingerprint(tuned) == mmparax.fingerprint(copy.deepcopy(models[-1]))
    interpolated = models[4]
    interpolated.pos_embed.data += 1  # no longer what loading made of the file
    assert mmparax.fingerprint(interpolated) != mmparax.fingerprint(models[0])
    other = torch.load(vit_base)['model']
    torch.save({'model': {**other, 'pos_embed': other['pos_embed'] + 1}}, vit_base.with_name('other.pth'))
    assert mmparax.fingerprint(make_vit(vit_base.with_name('other.pth'), img_size=64)) != mmparax.fingerprint(models[0])
    torch.save({'model': {name: value.half() for name, value in other.items()}}, vit_base.with_name('half.pth'))
    assert mmparax.fingerprint(make_vit(vit_base.with_name('half.pth'), img_size=64)) != mmparax.fingerprint(models[0])


@pytest.mark.parametrize('adapter', ['adaroute', 'bitfit'])
@pytest.mark.parametrize('how', ['state dict', 'file', 'inside a model', 'stand-alone', 'stand-alone safetensors'])
def test_a_base_that_came_with_a_checkpoint_is_still_the_one_of_its_file(how, adapter, vit_base, tmp_path):
    model = make_vit(vit_base, adapter, img_size=64)
    expected, restored = mmparax.fingerprint(model), make_vit(None, adapter, img_size=64)
    assert mmparax.fingerprint(restored) != expected
    if how == 'state dict':
        restored.load_state_dict(model.state_dict())
    elif how == 'inside a model':
        outer = nn.ModuleDict(dict(backbone=restored))
        outer.load_state_dict(nn.ModuleDict(dict(backbone=model)).state_dict())
    elif how == 'file':
        torch.save(model.state_dict(), tmp_path / 'whole.pth')
        restored.load_state_dict(torch.load(tmp_path / 'whole.pth', weights_only=True))
    else:
        path = tmp_path / ('whole.safetensors' if 'safetensors' in how else 'whole.pth')
        write_checkpoint(path, make_standalone_checkpoint(model, {}))
        load_checkpoint(restored, str(path))
    assert restored.base_source is BaseSource.CHECKPOINT
    assert mmparax.fingerprint(restored) == mmparax.fingerprint(copy.deepcopy(restored)) == expected


def test_an_adapter_travels_between_sizes_of_images(vit_base, tmp_path):
    small, large = make_vit(vit_base, 'adaroute'), make_vit(vit_base, 'adaroute', img_size=64)
    about = mmparax.save_adapter(small, tmp_path / 'x.safetensors')
    assert set(about['backbones']['']) == {'type', 'family', 'options', 'adapter', 'base_checkpoint'}
    mmparax.load_adapter(large, tmp_path / 'x.safetensors')
    whole = make_vit(None, 'adaroute', img_size=64)
    whole.load_state_dict(large.state_dict())
    mmparax.load_adapter(whole, tmp_path / 'x.safetensors')


@pytest.mark.parametrize('nonsense', [3, {'pos_embed': 'x'}, {'pos_embed': [1, 2]}, {'pos_embed': ['a', 'b', 'c']}], ids=str)
def test_nonsense_about_a_base_is_left_out(nonsense, vit_base):
    model, restored = make_vit(vit_base, img_size=64), make_vit(None, img_size=64)
    state = model.state_dict()
    state._metadata['']['mmparax_origins'] = nonsense
    restored.load_state_dict(state)
    assert restored.origins == {} and len(mmparax.fingerprint(restored)) == 64
