"""export_adapter.py and inspect_adapter.py on the files of a run."""
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

import mmparax
from helpers.cases import build
from helpers.runs import SHALLOW, config, saved, train
from helpers.runs import build as build_run
from mmparax.weights.adapter_file import read_adapter

ROOT = Path(__file__).parents[2]


def values(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def run_base(tmp_path):
    torch.save(build('frozen', **SHALLOW['swin']).state_dict(), tmp_path / 'base.pth')
    return dict(base_checkpoint=str(tmp_path / 'base.pth'))


def call(script, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [script, *map(str, arguments)])
        runpy.run_path(str(ROOT / 'tools' / script), run_name='__main__')


def test_the_tools(run_base, tmp_path, capsys):
    runner = train(tmp_path / 'run', iterations=3, checkpoint=dict(save_best='mIoU'), **run_base)
    runner.cfg.dump(tmp_path / 'config.py')
    out, best = tmp_path / 'a.safetensors', next((tmp_path / 'run').glob('best_*.pth'))
    call('export_adapter.py', tmp_path / 'config.py', best, out)
    assert f'{out}: 0.' in capsys.readouterr().out
    model = build_run(config(tmp_path / 'other', **run_base)).model
    mmparax.load_adapter(model, out)
    assert equal(values(runner.model), values(model)) and model.dataset_meta['classes'] == ('a', 'b', 'c')
    about = read_adapter(out).about
    assert about['metric'] == dict(mIoU=saved(tmp_path / 'run')['message_hub']['runtime_info']['best_score'])
    assert about['head']['decode_head']['type'] == 'FCNHead'
    call('export_adapter.py', tmp_path / 'config.py', out, tmp_path / 'again.safetensors')
    assert (tmp_path / 'again.safetensors').read_bytes() == out.read_bytes()
    last, before = (tmp_path / 'run' / 'last_checkpoint').read_text(), out.read_bytes()
    for arguments, message in ((('b.safetensors', '--metric', 'mIoU'), "--metric='mIoU' is not allowed: it is NAME=NUMBER"),
                               (('b.safetensors', '--metric', '=3'), "--metric='=3' is not allowed: it is NAME=NUMBER"),
                               (('b.safetensors', '--metric', 'mIoU=nan'), "--metric='mIoU=nan' is not allowed: it is NAME=NU"),
                               (('b.safetensors', '--metric', 'a=1', 'a=2'), "--metric='a=2' is not allowed: a was given before"),
                               (('a.pth', ), "='a.pth' is not allowed: it must end in .safetensors"),
                               ((out, ), 'the file exists. Choose another name')):
        with pytest.raises(SystemExit) as stopped, pytest.MonkeyPatch.context() as patch:
            patch.setattr('mmparax.inference.predictions.build_and_load', None)  # said before anything is built
            call('export_adapter.py', tmp_path / 'config.py', last, *arguments)
        assert message in stopped.value.code and out.read_bytes() == before
    call('export_adapter.py', tmp_path / 'config.py', last, out, '--no-head', '--dtype', 'float16', '--metric', 'mIoU=1.5',
         '--force')
    capsys.readouterr()
    call('inspect_adapter.py', out, '--json')
    shown = json.loads(capsys.readouterr().out)
    assert shown == read_adapter(out).about and shown['metric'] == dict(mIoU=1.5) and not shown['head_included']
    call('inspect_adapter.py', out)
    table = capsys.readouterr().out
    for part in ('AdaptedSwin', 'AdaRoute', 'hidden_dim=8', 'base.pth', 'mIoU=1.5', 'float16', '(checked)'):
        assert part in table
    call('export_adapter.py', tmp_path / 'config.py', last, out, '--force')
    assert read_adapter(out).about['metric'] is None  # an iter_* file is not what was evaluated last
    out.write_bytes(out.read_bytes()[:-1])
    with pytest.raises(SystemExit) as stopped:
        call('inspect_adapter.py', out)
    assert 'is truncated or damaged' in stopped.value.code
