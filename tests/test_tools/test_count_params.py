"""The tool that counts parameters: what it prints and its JSON, on small models."""
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers.cases import build
from helpers.config_files import CONFIGS
from mmparax.backbones.parameters import OUTSIDE, count_by_stage, count_parameters
from mmparax.errors import InputError
from mmparax.utils.meta_device import use_meta_device

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'count_params.py'
QUICKSTART = CONFIGS / 'quickstart'
SWIN = str(next(QUICKSTART.glob('upernet_swin-mini_adaroute*')))
VIT = str(next(QUICKSTART.glob('vit-mini_full*')))
# Swin mini with AdaRoute, hidden_dim 16: experts, adapters and output norms added up by the paper's formulas.
TRAINED = 133_236
GROUPS = ('backbone_frozen', 'backbone_trainable', 'adapters', 'centers', 'output_norms')


@pytest.fixture
def call(monkeypatch, capsys):

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['count_params.py', *arguments])
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr().out

    return call


def test_one_config_by_part_and_by_stage(call):
    text = call(SWIN)
    for words in ('backbone, frozen', 'adapters', 'expert centers', 'output norms', 'head', 'of backbone', 'of model',
                  'trainable in backbone', 'Backbone by stage', 'stage 3 (4 blocks)', OUTSIDE):
        assert words in text
    assert f'{TRAINED:,}' in text and '8.11%' in text


def test_json_adds_up(call):
    found = json.loads(call(SWIN, '--json'))
    assert found['config'] == SWIN and found['trainable_in_backbone'] == TRAINED
    assert [stage['stage'] for stage in found['stages']
            ] == ['stage 1 (2 blocks)', 'stage 2 (2 blocks)', 'stage 3 (4 blocks)', 'stage 4 (2 blocks)', OUTSIDE]
    for group in GROUPS:
        for number in ('tensors', 'parameters'):
            assert sum(stage[group][number] for stage in found['stages']) == found[group][number], group
    assert found['share_of_backbone'] == found['trainable_in_backbone'] / found['backbone']
    assert found['share_of_model'] == found['trainable'] / found['total']
    assert found['total'] == found['backbone'] + found['head']['parameters']


def test_several_configs_are_rows_of_one_table(call):
    text = call(SWIN, VIT)
    assert text.count('Parameters') == 1 and Path(SWIN).stem in text and Path(VIT).stem in text
    assert '100.00%' in text  # full fine-tuning
    assert [found['config'] for found in json.loads(call(VIT, SWIN, '--json'))] == [VIT, SWIN]


def test_options_of_the_command_line_count(call):
    wider = json.loads(call(SWIN, '--json', '--cfg-options', 'model.backbone.adapter.hidden_dim=32'))
    assert wider['trainable_in_backbone'] > TRAINED


def test_no_base_file_is_needed(call):
    found = json.loads(call(SWIN, '--json', '--cfg-options', 'model.backbone.base_checkpoint=absent.pth'))
    assert found['trainable_in_backbone'] == TRAINED


def test_a_model_of_others_is_refused(call, tmp_path):
    (tmp_path / 'theirs.py').write_text("_base_ = 'mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py'\n")
    with pytest.raises(SystemExit, match='InputError: EncoderDecoder holds no backbone of mmparax'):
        call(str(tmp_path / 'theirs.py'))


@pytest.mark.parametrize('backbone', ['swin', 'convnext', 'vit', 'mit'])
@pytest.mark.parametrize('method', ['adaroute', 'adaroute-groups', 'bitfit', None])
def test_stages_hold_their_blocks_and_centers(method, backbone):
    model = nn.ModuleDict(dict(inner=build(method, backbone)))
    whole, (*stages, outside) = count_parameters(model), count_by_stage(model).values()
    assert len(stages) == len(model.inner.stage_blocks()) and list(count_by_stage(model))[-1] == OUTSIDE
    for group in GROUPS:
        assert sum(getattr(part, group).parameters for part in (*stages, outside)) == getattr(whole, group).parameters
    for part, centers in zip(stages, model.inner.expert_centers):
        assert part.centers.parameters == sum(parameter.numel() for parameter in centers.parameters()) > 0
    assert outside.adapters.parameters == outside.centers.parameters == 0
    assert (outside.backbone_trainable if method is None else outside.backbone_frozen).parameters > 0
    assert all(part.output_norms.parameters == 0 for part in stages)


def test_two_backbones_have_stages_of_their_own():
    model = nn.ModuleDict(dict(one=build('frozen', 'swin'), other=build('mona', 'vit')))
    assert [label.split(':')[0] for label in count_by_stage(model)] == ['one'] * 5 + ['other'] * 2
    with pytest.raises(InputError, match='Linear holds no backbone of mmparax'):
        count_by_stage(nn.Linear(2, 2))


def test_meta_is_undone_after_an_error():
    before = torch.arange, torch.linspace, nn.init.uniform_, nn.init.trunc_normal_
    with pytest.raises(RuntimeError, match='inside'), use_meta_device():
        layer = nn.Linear(2, 3)
        assert layer.weight.is_meta and not torch.arange(3).is_meta
        raise RuntimeError('inside')
    assert (torch.arange, torch.linspace, nn.init.uniform_, nn.init.trunc_normal_) == before
    assert not nn.Linear(2, 3).weight.is_meta
