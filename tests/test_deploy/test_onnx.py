"""Out of PyTorch: torch.export and ONNX at batch 1 and 2; most take long and run in `make test-full`."""
import json
import runpy
import sys
from pathlib import Path

import onnx
import pytest
import torch

from helpers.cases import BACKBONES, build, images
from helpers.deployed import write_base, write_task
from mmparax.deploy import onnx_file
from mmparax.deploy.onnx_file import compare_onnx, export_onnx

TOOL = Path(__file__).parents[2] / 'tools' / 'export_onnx.py'
ADAROUTE = dict(type='mmparax.AdaRoute', hidden_dim=8, router_dim=6)
# As small as each family can be: the exporter takes seconds for a block.
FEW_BLOCKS = dict(swin=dict(arch=dict(embed_dims=8, depths=[2, 1], num_heads=[1, 2]), out_indices=(0, 1)),
                  convnext=dict(arch=dict(channels=[8], depths=[1]), out_indices=(0, ), gap_before_final_norm=False),
                  vit=dict(arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
                           out_indices=(0, )), mit=dict(num_layers=[1, 1]))
QUICK = ('convnext', 2)
CASES = [
    pytest.param(backbone, batch, marks=[] if (backbone, batch) == QUICK else pytest.mark.full) for backbone in BACKBONES
    for batch in (1, 2)
]


def build_small(backbone):
    """A backbone in which every term of AdaRoute counts."""
    model = build(ADAROUTE, backbone, **FEW_BLOCKS[backbone])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape)
    return model.eval()


@pytest.mark.full
@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('backbone', BACKBONES)
@torch.no_grad()
def test_torch_export_gives_the_same(backbone, batch):
    model, x = build_small(backbone), images(backbone, batch)
    program = torch.export.export(model, (x, ))
    assert not [node for node in program.graph.nodes if 'autocast' in str(node.target)]  # each would be a graph of its own
    for seed in (0, 1):
        x = images(backbone, batch, seed=seed)
        for a, b in zip(program.module()(x), model(x)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('backbone, batch', CASES)
def test_onnxruntime_gives_the_same(backbone, batch, tmp_path):
    model = build_small(backbone)
    about = export_onnx(model, tmp_path / 'x.onnx', BACKBONES[backbone][2], batch)
    assert about['input'] == dict(name='images', shape=[batch, 3, *BACKBONES[backbone][2]])
    shapes = [list(output.shape) for output in model(images(backbone, batch))]
    assert [output['shape'] for output in about['outputs']] == shapes
    assert max(compare_onnx(model, tmp_path / 'x.onnx', seed) for seed in (0, 1)) < 1e-4
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / 'x.onnx').metadata_props}
    assert json.loads(properties['mmparax']) == about


@pytest.mark.full
@pytest.mark.parametrize('task, options, expected', [
    ('segmentation', {}, 'logits [2, 15, 16, 24]'),
    ('classification', dict(out_indices=(3, ), pad_small_map=True), 'scores [2, 15]'),
    ('detection', {}, 'level4 [2, 16, 1, 2]'),
])
def test_the_tool_on_every_task(task, options, expected, tmp_path, monkeypatch, capsys):
    write_base(tmp_path)
    config, adapter = write_task(tmp_path, task, 'adaroute', **options)
    out = tmp_path / 'x.onnx'
    monkeypatch.setattr(sys, 'argv', ['export_onnx.py', config, adapter, str(out), '--size', '64', '96', '--batch-size', '2'])
    runpy.run_path(str(TOOL), run_name='__main__')
    printed = capsys.readouterr().out
    assert f'out: {expected}' in printed and 'in:  images [2, 3, 64, 96], normalised: mean [123.675' in printed
    assert 'onnxruntime and torch differ by at most' in printed
    properties = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert json.loads(properties['mmparax'])['classes'] == ['a', 'b']


@pytest.mark.parametrize('there', [None, b'mine'])
def test_a_file_that_says_something_else_is_not_written(there, tmp_path, monkeypatch, capsys):
    write_base(tmp_path)
    config, adapter = write_task(tmp_path, 'segmentation', 'frozen')
    out = tmp_path / 'x.onnx'
    if there:
        out.write_bytes(there)
    before = sorted(tmp_path.iterdir())

    def export(model, path, *_):
        path.write_bytes(b'wrong')

    monkeypatch.setattr(onnx_file, 'export_onnx', export)
    monkeypatch.setattr(onnx_file, 'compare_onnx', lambda model, path: 0.5)
    monkeypatch.setattr(sys, 'argv', ['export_onnx.py', config, adapter, str(out), '--size', '64', '96', '--force'])
    with pytest.raises(SystemExit, match=r"gives other outputs than the model .*x.onnx' was not written"):
        runpy.run_path(str(TOOL), run_name='__main__')
    assert sorted(tmp_path.iterdir()) == before and (not there or out.read_bytes() == there)


def test_half_precision_is_compared_in_its_own(tmp_path):
    model = torch.nn.Conv2d(3, 2, 1).half()
    export_onnx(model, tmp_path / 'x.onnx', (4, 4))
    assert compare_onnx(model, tmp_path / 'x.onnx') < 1e-2


def test_what_is_wrong_is_said_before_anything_is_built(tmp_path, monkeypatch):
    model = build_small('vit')
    (tmp_path / 'x.onnx').write_bytes(b'mine')
    with pytest.raises(ValueError, match='the file exists'):
        export_onnx(model, tmp_path / 'x.onnx', (48, 48))
    with pytest.raises(ValueError, match='it must end in .onnx'):
        export_onnx(model, tmp_path / 'x.pth', (48, 48))
    with pytest.raises(ValueError, match='batch_size=0 is not allowed'):
        export_onnx(model, tmp_path / 'y.onnx', (48, 48), 0)
    monkeypatch.setattr(onnx_file, 'is_installed', lambda name: name != 'onnxscript')
    with pytest.raises(ValueError, match=r'needs onnxscript, not installed here: run `pip install .*mmparax\[onnx\]'):
        export_onnx(model, tmp_path / 'y.onnx', (48, 48))
    assert [path.name for path in tmp_path.iterdir()] == ['x.onnx']
