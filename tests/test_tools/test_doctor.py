"""The verdict on a config, and what it names."""
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmparax.checks.findings import summarize
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.doctor import Doctor

ROOT = Path(__file__).parents[2]
CONFIG = next((ROOT / 'configs' / 'quickstart').glob('upernet_swin-mini_adaroute*'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('doctor')
    write_scenes(path / 'data' / 'scenes', 4, 2, size=(64, 64), progress=False)
    return path


@pytest.fixture
def examine(folder, monkeypatch):

    def examine(changes, num_processes=1):
        monkeypatch.chdir(folder)
        cfg = Config.fromfile(CONFIG)
        cfg.merge_from_dict(changes)
        findings = Doctor(cfg, num_processes=num_processes).examine()
        return {finding.check: (finding.status, finding.text) for finding in findings}, *summarize(findings)

    return examine


def call(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['doctor.py', *arguments])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / 'tools' / 'doctor.py'), run_name='__main__')
    return stopped.value.code, capsys.readouterr().out


def test_a_healthy_config_is_ready(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code, text = call([str(CONFIG)], monkeypatch, capsys)
    assert code == 0 and text.strip().endswith('READY to train.')
    assert re.search(r'ok +model +EncoderDecoder with AdaRoute: 0\.133 M of 1\.643 M parameters of the backbone are trainable',
                     text)
    assert re.search(r"ok +base +'mmparax://.*' fits in every key and shape; fingerprint [0-9a-f]{64}", text)
    assert re.search(r'ok +frozen +1\.509 M parameters of the backbone are frozen; every trainable parameter is in the', text)
    assert re.search(r'ok +batch and rate +Effective batch size 8 = 1 process', text)
    assert re.search(r'ok +one step +on 2 training images: loss \d+\.\d+, a finite gradient for each of 468 trainable parameters',
                     text)


def test_without_data_and_base_the_rest_is_still_examined(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, text = call([str(CONFIG), '--gpus', '4', '--cfg-options', 'model.backbone.base_checkpoint=absent.pth'], monkeypatch,
                      capsys)
    assert code == 1 and text.strip().splitlines()[-1] == ('NOT READY: 2 problem(s): data, base. 1 warning(s): batch and rate.')
    assert re.search(r"problem +data +train_dataloader.dataset.data_root='data/scenes' does not exist", text)
    assert re.search(r"problem +base +base_checkpoint='absent.pth' does not exist", text)
    assert re.search(r'warning +batch and rate +.* the effective batch size is 32', text, re.IGNORECASE)
    assert re.search(r'ok +one step +on 2 random images \(the data are not there\)', text)


PROBLEMS = {
    'option': ({'model.backbone.adapter.hidden_dim': 0}, 'model', 'hidden_dim=0 is not allowed'),
    'toolbox error': ({'model.decode_head.in_channels': [24, 48]}, 'model', 'AssertionError'),
    'base of another arch': ({'model.backbone.arch.depths': [2, 2, 2, 2]}, 'base', 'unexpected'),
    'load_from a base': ({'load_from': str(ROOT / 'mmparax' / 'zoo' / 'swin_mini_glyphs.safetensors')}, 'load_from',
                         'looks like a base checkpoint'),
    'option of a hook': ({'default_hooks.checkpoint.save': 'nonsense'}, 'config', "save='nonsense' is not allowed"),
    'load_from nothing': ({'load_from': 'absent.pth'}, 'load_from', "'absent.pth' does not exist"),
}


@pytest.mark.parametrize('case', PROBLEMS)
def test_problems_are_named(case, examine):
    changes, check, message = PROBLEMS[case]
    findings, ready, sentence = examine(changes)
    assert not ready and check in sentence
    assert findings[check][0] == 'problem' and message in findings[check][1]


WARNINGS = {
    'stock hook': ({'default_hooks.checkpoint.type': 'CheckpointHook'}, 'checkpoints', "type='mmparax.CheckpointHook'"),
    'no checks': ({'custom_hooks': []}, 'config', 'PEFTHook'),
    'random base': ({'model.backbone.base_checkpoint': None, 'model.backbone.allow_random_base': True}, 'base', 'random'),
}


@pytest.mark.parametrize('case', WARNINGS)
def test_warnings_are_named(case, examine):
    changes, check, message = WARNINGS[case]
    findings, ready, sentence = examine(changes)
    assert ready and check in sentence
    assert findings[check][0] == 'warning' and message in findings[check][1]


def test_an_unused_parameter_is_a_problem(examine, monkeypatch):
    from mmseg.models import UPerHead
    original = UPerHead.__init__

    def with_spare(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.spare = nn.Parameter(torch.ones(1))

    monkeypatch.setattr(UPerHead, '__init__', with_spare)
    findings, ready, _ = examine({})
    assert not ready and 'decode_head.spare got no gradient' in findings['one step'][1]


def test_full_fine_tuning_and_a_frozen_base_are_ready(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for adapter in (None, dict(type='mmparax.Frozen')):
        cfg = Config.fromfile(CONFIG)
        cfg.model.backbone.adapter = adapter
        findings = Doctor(cfg).examine()
        ready, sentence = summarize(findings)
        assert ready, findings
