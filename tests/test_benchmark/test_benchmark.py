"""The benchmark: what it measures and prints, and what it does with contenders that fail."""
import gc
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mmparax.backbones import AdaptedSwin
from mmparax.benchmark import candidates as catalogue
from mmparax.benchmark import timing
from mmparax.benchmark.candidates import TABLE_11, Contender, contenders, method_names
from mmparax.benchmark.plain_adapters import PlainMona
from mmparax.benchmark.timing import OUT_OF_MEMORY, Measured, Race, Workload, peak_of
from mmparax.benchmark.timing_report import Comparison, chart
from mmparax.errors import InputError
from mmparax.ops import dispatch

TOOL = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'benchmark.py'
WORK = Workload(size=(8, 8), rounds=3)
CPU = torch.device('cpu')


@pytest.fixture(scope='module', autouse=True)
def collected_quickly():
    """A race collects garbage when it ends: without what was there before it, that takes no time."""
    gc.freeze()
    yield
    gc.unfreeze()


class Toy(nn.Module):
    """A backbone of one convolution that writes down its turns and can fail."""

    def __init__(self, name='toy', turns=None, error=None, after=0):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.name, self.turns, self.error, self.after = name, [] if turns is None else turns, error, after

    def forward(self, x):
        if self.training:
            self.turns.append(self.name)
            if self.error and self.turns.count(self.name) > self.after:
                raise self.error
        return (self.conv(x), )


def toy(method='toy', **options):
    fields = {name: options.pop(name) for name in ('dtype', 'ops', 'efficient_attention', 'published') if name in options}
    return Contender(method, lambda: Toy(method, **options), **fields)


def raced(*rows, work=WORK):
    race = Race(rows, work)
    race.run()
    return race


def with_times(times, peaks=None, **options):
    """A comparison with given seconds of each method; None: it failed."""
    rows = []
    for method, seconds in times.items():
        error = None if seconds else OUT_OF_MEMORY
        rows.append(Measured(Contender(method, Toy, published=options.get(method)), 10, 40, (peaks or {}).get(method), 0,
                             seconds or [], seconds or [], error))
    return Comparison('swin-b', Workload((320, 320), batch=4), rows)


# ---- measuring ----


def test_contenders_take_turns_and_every_round_begins_with_the_next_one():
    turns = []
    work = Workload(size=(8, 8), rounds=3, warmup=2)
    race = raced(*(toy(name, turns=turns) for name in 'abc'), work=work)
    assert turns[:9] == list('aaabbbccc'), 'two warm-up steps and the one that measures memory'
    assert turns[9:] == list('abc' 'bca' 'cab')
    assert all(len(measured.training) == len(measured.inference) == 3 for measured in race.measured)
    assert all(measured.trainable == 3 * 4 * 9 + 4 and measured.error is None for measured in race.measured)


@pytest.mark.parametrize('after, error, text', [
    (0, torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 PiB.'), OUT_OF_MEMORY),
    (3, torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 PiB.'), OUT_OF_MEMORY),
    (1, RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), OUT_OF_MEMORY),
    (2, InputError('this explains itself.'), 'this explains itself.'),
    (0, RuntimeError('shapes\n do not match'), 'RuntimeError: shapes do not match'),
    (2, KeyError(), 'KeyError'),
])
def test_one_that_fails_says_why_and_the_rest_goes_on(after, error, text):
    race = raced(toy('full'), toy('broken', error=error, after=after), toy('last'))
    assert [measured.error for measured in race.measured] == [None, text, None]
    assert [len(measured.training) for measured in race.measured] == [3, max(after - 2, 0), 3]
    table = Comparison('toys', WORK, race.measured).table()
    assert text in table and 'full' in table and 'last' in table


def test_memory_is_measured_when_the_optimizer_has_its_state():
    """In half precision the first steps overflow, and none of them makes it."""

    class Steep(Toy):

        def forward(self, x):
            return (1000 * self.conv(x), )

    found = {}
    for dtype in ('fp32', 'fp16'):
        contender = Contender('steep', lambda: Steep(turns=turns), dtype)
        turns = []
        race = raced(contender, work=Workload(size=(8, 8), rounds=1))
        assert race.measured[0].error is None
        found[dtype] = race.measured[0].resident
    assert found['fp32'] == found['fp16'] > 3 * 4 * race.measured[0].trainable


def test_gradients_that_always_overflow_are_said_so():

    class Broken(Toy):

        def forward(self, x):
            return (float('inf') * self.conv(x), )

    race = raced(Contender('broken', Broken, 'fp16'), toy('full'))
    assert 'after 20 steps the gradients still overflow: use --dtype bf16 or fp32' in race.measured[0].error
    assert len(race.measured[1].training) == 3


def test_every_row_is_compiled(monkeypatch):
    """Models share code, of which the compiler keeps few versions unless it is told."""
    graphs = []
    original = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda model: original(
        model, backend=lambda graph, inputs: graphs.append(graph) or graph.forward))
    torch._dynamo.reset()
    race = raced(*(toy(str(i)) for i in range(10)), work=Workload(size=(8, 8), rounds=1, compile=True))
    assert [measured.error for measured in race.measured] == [None] * 10
    assert len(graphs) >= 20, 'one for training and one for inference'
    torch._dynamo.reset()


def test_what_a_compiler_refuses_is_said_by_its_first_error():
    error = RuntimeError("CppCompileError: C++ compile error\n\nCommand:\ng++ a.cpp -O3\n\nOutput:\na.cpp:1:2: error: "
                         "'decltype' evaluates to 'float'\n 2844 | return decltype(a)::b;\na.cpp:9:2: error: another")
    assert raced(toy('broken', error=error, after=0)).measured[0].error == (
        "torch.compile wrote C++ that the compiler refuses ('decltype' evaluates to 'float'): run it without --compile")


def test_one_that_cannot_be_built_says_so():

    def fail():
        raise TypeError('no such option')

    race = raced(Contender('broken', fail), toy('full'))
    assert race.measured[0].error == 'TypeError: no such option' and len(race.measured[1].training) == 3


def test_a_dtype_that_the_device_lacks_costs_its_rows_only(monkeypatch):
    monkeypatch.setattr(timing, 'supports', lambda device, dtype: dtype != 'fp16')
    race = raced(toy(dtype='fp32'), toy(dtype='fp16'), toy(dtype='bf16'))
    assert [measured.error for measured in race.measured] == [None, 'this device has no fp16', None]
    assert [len(measured.training) for measured in race.measured] == [3, 0, 3]


@pytest.mark.parametrize('failure', [RuntimeError('"conv" not implemented for Half'), None])
def test_support_of_a_dtype_is_found_out_by_computing(monkeypatch, failure):
    """By an error, or by autocast that left the numbers in single precision."""

    def forward(layer, x):
        if failure:
            raise failure
        return x + layer.bias.view(1, -1, 1, 1)

    assert timing.supports(CPU, 'fp32') and timing.supports(CPU, 'bf16')
    monkeypatch.setattr(nn.Conv2d, 'forward', forward)
    assert timing.supports(CPU, 'fp32') and not timing.supports(CPU, 'fp16')


def test_without_triton_its_row_says_so(monkeypatch):
    monkeypatch.setattr(timing, 'has_triton', lambda: False)
    race = raced(toy('adaroute', ops='triton'), toy('adaroute', ops='reference'))
    lacks, runs = race.measured
    assert lacks.error == 'Triton, or the C compiler that it needs, is not installed' and runs.error is None


def test_every_row_runs_on_its_own_path():
    seen = []

    class Spy(Toy):

        def forward(self, x):
            seen.append(dispatch.select_backend(x))
            return super().forward(x)

    raced(Contender('adaroute', Spy, ops='reference'), Contender('adaroute', Spy, ops='fused'), work=Workload((8, 8), rounds=1))
    assert set(seen) == {'reference', 'fused'} and seen[-4:] == ['reference', 'reference', 'fused', 'fused']


def test_a_backbone_in_which_nothing_trains_is_an_error_of_its_row():
    race = raced(Contender('frozen', lambda: Toy().requires_grad_(False)))
    assert 'nothing trains' in race.measured[0].error


def test_no_round_begins_when_the_time_is_over():
    race = raced(toy(), work=Workload((8, 8), rounds=50, seconds=0.))
    assert len(race.measured[0].training) == 1 and race.stopped == 'stopped after 1 of 50 rounds: the time was over'
    assert race.stopped in Comparison('toys', race.work, race.measured, stopped=race.stopped).table()


def test_the_loss_weighs_every_output_and_is_the_same_for_all_rows():
    outputs = [torch.ones(2, 3), torch.ones(1, 4, 2, 2)]
    first, second = (timing.Batch(WORK).weights(outputs) for _ in range(2))
    for output, a, b in zip(outputs, first, second, strict=True):
        assert torch.equal(a, b) and a.shape == output.shape and (a != 0).all()
    half, = timing.Batch(WORK).weights([outputs[0].half()])
    assert half.dtype == torch.float16 and torch.equal(half, first[0].half())


def test_a_step_moves_the_weights_by_the_gradient_of_the_loss():
    batch = timing.Batch(WORK)
    trainee = timing.Trainee(toy(), WORK, batch)
    weight = trainee.model.conv.weight
    output, = trainee.forward()
    gradient, = torch.autograd.grad((output * batch.weights([output])[0]).sum(), weight)
    before = weight.detach().clone()
    trainee.train_step()
    assert torch.equal((weight - before).sign(), -gradient.sign())  # the first step of AdamW; the decay is smaller
    assert all(parameter.grad is None for parameter in trainee.parameters)


def test_peak_memory_is_what_a_step_holds_at_most():
    x = torch.ones(1000)

    def step():
        a = x + 1  # 4000 bytes
        b = torch.cat([a, a])  # 8000 more
        del a, b
        return x * 2  # 4000 alone

    assert 12000 <= peak_of(step, CPU) < 12200  # some bytes for the number 1


def test_resident_bytes_are_parameters_buffers_and_optimizer_state():
    trainee = timing.Trainee(toy(), WORK, timing.Batch(WORK))
    parameters = 4 * (3 * 4 * 9 + 4)
    assert trainee.resident() == parameters
    trainee.train_step()
    assert trainee.resident() == 3 * parameters + 2 * 4, 'two moments each, and the number of steps'


# ---- the report ----


def test_ratios_are_those_of_the_medians():
    rows = with_times({'full': [1., 2., 9.], 'adaroute': [2.5, 2., 2.6]}, {'full': 8e9, 'adaroute': 4e9}).rows()
    assert rows[0]['images_per_second'] == 2. and rows[0]['ratio_to_full'] == rows[0]['memory_ratio_to_full'] == 1.
    row = rows[1]
    assert (row['images_per_second'], row['milliseconds_per_step']) == (1.6, 2500.)
    assert (row['images_per_second_min'], row['images_per_second_max']) == (4 / 2.6, 2.)
    assert row['ratio_to_full'] == pytest.approx(0.8) and row['memory_ratio_to_full'] == 0.5


def test_without_full_fine_tuning_there_is_no_ratio():
    comparison = with_times({'full': None, 'adaroute': [1.]}, {'adaroute': 1e9})
    assert all(row['ratio_to_full'] is row['memory_ratio_to_full'] is None for row in comparison.rows())
    assert OUT_OF_MEMORY in comparison.table() and '4' in comparison.table()
    assert chart([comparison]).axes


def test_a_ratio_is_to_full_fine_tuning_in_the_same_dtype():
    comparison = with_times({'full': [2.], 'mona': [4.]})
    half = [Measured(Contender(method, Toy, 'fp16'), training=[seconds]) for method, seconds in (('full', 1.), ('mona', 4.))]
    comparison.measured = [*comparison.measured, *half]
    assert [row['ratio_to_full'] for row in comparison.rows()] == [1., 0.5, 1., 0.25]
    assert 'fp16' in comparison.table()


def test_ratios_to_the_plain_adapters_stand_where_those_ran():
    comparison = with_times({'adaroute': [2.], 'plain-adaroute': [3.], 'plain-mona': [1.]})
    assert [row['ratio_to_plain_adaroute'] for row in comparison.rows()] == [1.5, 1., 3.]
    assert [row['ratio_to_plain_mona'] for row in comparison.rows()] == pytest.approx([0.5, 1 / 3, 1.])
    assert comparison.table().count('plain') >= 4
    alone = with_times({'full': [2.], 'adaroute': [2.]})
    assert all(row['ratio_to_plain_mona'] is None for row in alone.rows()) and 'plain' not in alone.table()


def test_published_ratios_are_a_column_of_their_own_and_only_for_the_papers_setting():
    published = {(backbone, size, batch): [row.published for row in contenders(
        backbone, ['full', 'adaroute', 'plain-adaroute'], size, batch, ['fp16'], ['auto'], [True])]
        for backbone, size, batch in (('swin-l', (1280, 800), 4), ('swin-l', (1280, 800), 2), ('swin-b', (1280, 800), 4))}
    assert published.pop(('swin-l', (1280, 800), 4)) == [1., pytest.approx(0.855, abs=5e-4), None]
    assert set(sum(published.values(), [])) == {None}
    assert 'L40S' not in with_times({'full': [1.]}).table()
    table = with_times({'full': [1.], 'adaroute': [1.]}, adaroute=0.855).table()
    assert 'published' in table and '0.855' in table and '1.000' in table
    assert TABLE_11 == {'full': 4.63, 'lora': 4.07, 'adaptformer': 5.15, 'lorand': 5.11, 'mona': 3.94,
                        'adaroute-no-conv': 4.96, 'adaroute': 3.96}


# ---- what is compared ----


def test_rows_are_the_choices_that_make_a_difference(monkeypatch):
    monkeypatch.setattr(catalogue, 'has_efficient_attention', lambda backbone: True)
    rows = contenders('swin-mini', ['full', 'adaroute', 'lora', 'plain-adaroute'], (64, 64), 1, ['fp32'], ['auto', 'reference'],
                      [True, False])
    assert [(row.method, row.efficient_attention, row.ops) for row in rows] == [
        ('full', None, None), ('adaroute', True, 'auto'), ('adaroute', True, 'reference'), ('adaroute', False, 'auto'),
        ('adaroute', False, 'reference'), ('lora', True, None), ('lora', False, None), ('plain-adaroute', False, None)]


def test_full_fine_tuning_is_upstreams_own_backbone_with_the_options_of_the_adapted_one():
    full = catalogue.build('swin-mini', 'full', (64, 64), None, False)
    adapted = catalogue.build('swin-mini', 'frozen', (64, 64), None, False)
    assert type(full) is AdaptedSwin.upstream and all(parameter.requires_grad for parameter in full.parameters())
    adapted.load_state_dict(full.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        full.train(False)  # upstream's gives nothing back
        for a, b in zip(full(x), adapted.eval()(x), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize('backbone, method, expected', [
    ('swin-b', 'mona', dict(hidden_dim=90)), ('convnext-b', 'mona', dict(hidden_dim=144)), ('vit-b16', 'lora', dict(rank=106)),
    ('swin-l', 'lorand', dict(branches=2, rank=37)), ('swin-b', 'plain-mona', dict(type=PlainMona, hidden_dim=90)),
    ('swin-l', 'adaroute-no-conv', dict(kernel_sizes=())), ('swin-b', 'bitfit', dict(type='mmparax.BitFit')),
    ('swin-mini', 'adaroute', dict(hidden_dim=16))])
def test_sizes_are_those_of_the_shipped_configs(backbone, method, expected):
    adapter = catalogue.adapter_config(backbone, method)
    assert {name: adapter[name] for name in expected} == expected


def test_upstreams_vit_cannot_recompute_activations():
    with pytest.raises(InputError, match='--with-cp=True is not allowed'):
        catalogue.build('vit-mini', 'full', (32, 32), None, True)


# ---- the tool ----


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):

    def call(*arguments):
        fixed = ('--threads', '1', '--device', 'cpu', '--out', str(tmp_path))
        monkeypatch.setattr(sys, 'argv', ['benchmark.py', *arguments, *fixed])
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr().out

    return call


SMALL = ('--backbone', 'swin-mini', '--size', '32x32', '--rounds', '2')


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
    turn = timing.Trainee.turn
    turns = []

    def interrupted(self, measured):
        turns.append(measured)
        if len(turns) == 4:
            raise KeyboardInterrupt
        turn(self, measured)

    monkeypatch.setattr(timing.Trainee, 'turn', interrupted)
    with pytest.raises(SystemExit) as stop:
        call(*SMALL, '--methods', 'full', 'frozen')
    assert stop.value.code == 130 and 'interrupted' in capsys.readouterr().out
    comparison, = json.loads((tmp_path / 'benchmark.json').read_text())['comparisons']
    assert comparison['stopped'] == 'interrupted' and [row['rounds'] for row in comparison['rows']] == [1, 2]


@pytest.mark.parametrize('arguments, words', [
    (['--methods', 'full', 'adapt'], ['--methods', "'adapt'", *method_names()]),
    (['--backbone', 'resnet'], ['--backbone', "'resnet'", 'swin-b', 'convnext-mini']),
    (['--size', '32'], ['--size', "'32'", '320x320']),
    (['--device', 'cuda:99'], ['--device', 'cuda:99']),
    (['--device', 'tpu'], ['--device', 'tpu', 'cpu']),
    (['--rounds', '0'], ['--rounds', 'at least 1']),
])
def test_wrong_arguments_are_explained(arguments, words, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert all(word in stop.value.code for word in words)


def test_if_nothing_could_be_measured_the_tool_says_so_after_the_table(call, capsys):
    with pytest.raises(SystemExit) as stop:
        call('--backbone', 'convnext-mini', '--size', '32x32', '--methods', 'lora')
    assert 'no method could be measured' in stop.value.code and 'LoRA cannot adapt ConvNeXt' in capsys.readouterr().out
