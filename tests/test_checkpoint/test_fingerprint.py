"""One base has one fingerprint, however its file is laid out and whatever was put around it."""
import copy

import pytest
import torch
from mmpretrain.models.backbones import SwinTransformer
from safetensors.torch import save_file
from torch import nn

import mmparax
from helpers.base_files import microsoft
from helpers.cases import METHODS, TINY_SWIN, build
from mmparax.backbones import AdaptedSwin


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
