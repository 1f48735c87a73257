"""tools/analysis_tools/benchmark.py as a user calls it."""
import gc
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mmparax.benchmark import timing
from mmparax.benchmark.candidates import list_methods

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'benchmark.py'


@pytest.fixture(scope='module', autouse=True)
def collected_quickly():
    """A timer collects garbage when it ends: without what was there before it, that takes no time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):

    def call(*arguments):
        fixed = ('--threads', '1', '--device', 'cpu', '--out-dir', str(tmp_path))
        monkeypatch.setattr(sys, 'argv', ['benchmark.py', *arguments, *fixed])
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr().out

    return call


SMALL = ('--backbone', 'swin-mini', '--size', '32', '--rounds', '2')


def test_the_tool_prints_a_table_and_writes_json_and_chart(call, tmp_path):
    text = call(*SMALL, '--methods', 'full', 'frozen', 'adaroute', 'bitfit')
    for words in ('swin-mini, 32x32, batch 1, fp32, cpu: measured here', 'adaroute', 'full', 'frozen', 'trainable', '0.133',
                  'ratio', 'inference'):
        assert words in text
    found = json.loads((tmp_path / 'benchmark.json').read_text())
    rows = {row['method']: row for row in found['comparisons'][0]['rows']}
    assert rows.keys() == {'full', 'frozen', 'adaroute', 'bitfit'}
    assert rows['full']['ratio_to_full'] == 1. and rows['adaroute']['ratio_to_full'] == pytest.approx(
        rows['adaroute']['images_per_second'] / rows['full']['images_per_second'])
    assert rows['frozen']['peak_memory_bytes'] < rows['adaroute']['peak_memory_bytes'] < rows['full']['peak_memory_bytes']
    assert all(row['rounds'] == 2 and row['error'] is None for row in rows.values())
    facts = found['environment']
    assert facts['threads'] == 1 and facts['torch'] == torch.__version__ and '--methods full frozen' in facts['command']
    assert str(tmp_path) not in json.dumps(found) and str(Path.home()) not in json.dumps(found)
    assert (tmp_path / 'benchmark.png').read_bytes().startswith(b'\x89PNG')


def test_an_interrupt_keeps_what_was_measured(call, tmp_path, monkeypatch, capsys):
    turn = timing.BenchmarkModel.take_turn
    turns = []

    def interrupted(self, measured):
        turns.append(measured)
        if len(turns) == 4:
            raise KeyboardInterrupt
        turn(self, measured)

    monkeypatch.setattr(timing.BenchmarkModel, 'take_turn', interrupted)
    with pytest.raises(SystemExit) as stop:
        call(*SMALL, '--methods', 'full', 'frozen')
    assert stop.value.code == 130 and 'interrupted' in capsys.readouterr().out
    comparison, = json.loads((tmp_path / 'benchmark.json').read_text())['comparisons']
    assert comparison['stopped'] == 'interrupted' and [row['rounds'] for row in comparison['rows']] == [1, 2]


@pytest.mark.parametrize('arguments, words', [
    (['--methods', 'full', 'adapt'], ['--methods', "'adapt'", *list_methods()]),
    (['--backbone', 'resnet'], ['--backbone', "'resnet'", 'swin-b', 'convnext-mini']),
    (['--size', '0'], ['--size', 'at least 1']),
    (['--device', 'cuda:99'], ['--device', 'cuda:99']),
    (['--device', 'tpu'], ['--device', 'tpu', 'cpu']),
    (['--rounds', '0'], ['--rounds', 'at least 1']),
    *((['--minutes', value], ['--minutes', 'a number above 0']) for value in ('0', '-1', 'nan', 'inf')),
])
def test_wrong_arguments_are_explained(arguments, words, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert all(word in stop.value.code for word in words)


def test_if_nothing_could_be_measured_the_tool_says_so_after_the_table(call, capsys):
    with pytest.raises(SystemExit) as stop:
        call('--backbone', 'convnext-mini', '--size', '32', '--methods', 'lora')
    assert 'no method could be measured' in stop.value.code and 'LoRA cannot adapt ConvNeXt' in capsys.readouterr().out
