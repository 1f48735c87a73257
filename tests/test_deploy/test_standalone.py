"""Checkpoints that need no base checkpoint, and those for the toolbox's own backbone."""
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from safetensors import safe_open

import mmparax
from helpers.cases import build
from helpers.deployed import write_base, write_task
from mmparax.backbones.base_weights import BaseSource
from mmparax.deploy import standalone
from mmparax.deploy.standalone import make_upstream_checkpoint, make_upstream_config
from mmparax.inference.predictions import load_model

TOOL = Path(__file__).parents[2] / 'tools' / 'merge_checkpoint.py'
MERGEABLE = [('lora', 'swin'), ('bitfit', 'swin'), (None, 'swin'), ('lora-ffn', 'convnext'), ('norm-tuning', 'mit'),
             ('lora', 'vit')]


@pytest.fixture
def merge(monkeypatch, capsys):

    def merge(*arguments):
        """Run the tool; return what it printed, or the sentence with which it stopped."""
        monkeypatch.setattr(sys, 'argv', ['merge_checkpoint.py', *map(str, arguments)])
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as stopped:
            return str(stopped.code)
        return capsys.readouterr().out

    return merge


@torch.no_grad()
def run(model):
    return model.eval()(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)), mode='tensor')


def load(config, checkpoint, **changes):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({f'model.backbone.{name}': value for name, value in changes.items()})
    init_default_scope('mmseg')
    return load_model(cfg, str(checkpoint))


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_it_needs_no_base(suffix, merge, tmp_path):
    base = write_base(tmp_path)
    config, adapter = write_task(tmp_path, 'segmentation', 'adaroute')
    expected = load(config, adapter)
    out = tmp_path / f'whole{suffix}'
    assert 'base_checkpoint=None' in merge(config, adapter, out)
    assert not list(tmp_path.glob('.*.part'))
    base.rename(tmp_path / 'elsewhere.pth')
    model = load(config, out, base_checkpoint=None)
    assert model.backbone.base_source is BaseSource.CHECKPOINT
    assert torch.equal(run(model), run(expected))
    assert model.dataset_meta['classes'] == ('a', 'b')
    assert mmparax.fingerprint(model) == mmparax.fingerprint(expected)
    if suffix == '.safetensors':
        with safe_open(out, 'pt') as file:
            described = json.loads(file.metadata()['mmparax_checkpoint'])['mmparax']
    else:
        described = torch.load(out, weights_only=True)['meta']['mmparax']
    assert described['fingerprint'] == mmparax.fingerprint(expected) and 'format_version' not in described


@pytest.mark.parametrize('method, backbone', MERGEABLE)
def test_the_toolbox_alone_loads_it_strictly(method, backbone, merge, tmp_path, monkeypatch):
    write_base(tmp_path, backbone)
    monkeypatch.setattr('helpers.tasks.METHODS', {**sys.modules['helpers.tasks'].METHODS, None: (None, True)})
    config, adapter = write_task(tmp_path, 'segmentation', method, backbone)
    expected = load(config, adapter)
    out = tmp_path / 'plain.pth'
    printed = merge(config, adapter, out, '--upstream')
    content = torch.load(out, weights_only=True)
    assert 'mmparax' not in content['meta'] and content['meta']['dataset_meta']['classes'] == ('a', 'b')
    backbone_config = make_upstream_config(expected.backbone)
    assert f'backbone={backbone_config}' in printed and 'mmparax' not in str(backbone_config['type'])
    cfg = Config.fromfile(config)
    cfg.model.backbone = backbone_config
    model = MODELS.build(cfg.model)
    model.load_state_dict(content['state_dict'], strict=True)
    torch.testing.assert_close(run(model), run(expected), rtol=1e-4, atol=1e-4)
    assert 'adapters' not in str(list(content['state_dict']))


def test_what_cannot_be_merged_keeps_its_own_keys_only(merge, tmp_path):
    write_base(tmp_path)
    config, adapter = write_task(tmp_path, 'segmentation', 'adaroute')
    out = tmp_path / 'plain.pth'
    said = merge(config, adapter, out, '--upstream')
    assert said.startswith('InputError: AdaRoute cannot be merged into the frozen weights: its weights are mixed anew')
    assert not out.exists()


def test_the_modes_of_a_model_stay(monkeypatch):
    model = torch.nn.ModuleDict(dict(backbone=build('lora'), norm=torch.nn.BatchNorm2d(3))).train()
    model['norm'].eval()
    before = [module.training for module in model.modules()]
    make_upstream_checkpoint(model, {})
    assert [module.training for module in model.modules()] == before

    def fail(model):
        mmparax.merge_adapter(model)
        raise MemoryError

    monkeypatch.setattr(standalone, 'merge_adapter', fail)
    with pytest.raises(MemoryError):
        make_upstream_checkpoint(model, {})
    assert [module.training for module in model.modules()] == before and not model['backbone'].merged


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_named(dtype):
    with pytest.raises(ValueError, match=f'AdaptedSwin is in {dtype}, and outputs are compared in torch.float32'):
        make_upstream_checkpoint(build('lora').to(dtype), {})


def test_files_are_replaced_only_if_asked_for(merge, tmp_path):
    write_base(tmp_path)
    config, adapter = write_task(tmp_path, 'segmentation', 'frozen')
    out = tmp_path / 'whole.pth'
    out.write_bytes(b'mine')
    assert 'the file exists' in merge(config, adapter, out) and out.read_bytes() == b'mine'
    merge(config, adapter, out, '--force')
    load_checkpoint(load(config, adapter), str(out))
    assert "it must end in .pth or .safetensors" in merge(config, adapter, tmp_path / 'whole.bin')
    assert merge(config, adapter, tmp_path / 'x.safetensors', '--upstream').endswith('it must end in .pth.')
    assert 'does not exist' in merge(config, tmp_path / 'absent.pth', tmp_path / 'other.pth')


def test_damaged_metadata_are_refused(merge, tmp_path):
    write_base(tmp_path)
    config, adapter = write_task(tmp_path, 'segmentation', 'frozen')
    out = tmp_path / 'whole.safetensors'
    merge(config, adapter, out)
    content = out.read_bytes()
    out.write_bytes(content.replace(b'"mmparax_checkpoint":"{', b'"mmparax_checkpoint":"[', 1))
    assert out.read_bytes() != content
    with pytest.raises(ValueError, match='is damaged and was not loaded: .*the digest differs'):
        load(config, out)
