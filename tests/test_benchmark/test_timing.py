"""How the benchmark measures, and what it does with candidates that fail."""
import gc

import pytest
import torch
from torch import nn

from helpers.benchmarked import WORK, Toy, make_candidate, run_timer
from mmparax.benchmark import timing
from mmparax.benchmark.candidates import Candidate
from mmparax.benchmark.timing import OUT_OF_MEMORY, Workload, measure_peak
from mmparax.benchmark.timing_report import Comparison
from mmparax.errors import InputError
from mmparax.ops import dispatch

CPU = torch.device('cpu')


@pytest.fixture(scope='module', autouse=True)
def collected_quickly():
    """A timer collects garbage when it ends: without what was there before it, that takes no time."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_candidates_take_turns_and_every_round_begins_with_the_next_one():
    turns = []
    work = Workload(size=(8, 8), rounds=3, warmup=2)
    timer = run_timer(*(make_candidate(name, turns=turns) for name in 'abc'), work=work)
    assert turns[:9] == list('aaabbbccc'), 'two warm-up steps and the one that measures memory'
    assert turns[9:] == list('abc'
                             'bca'
                             'cab')
    assert all(len(measurement.training) == len(measurement.inference) == 3 for measurement in timer.measurements)
    assert all(measurement.trainable == 3 * 4 * 9 + 4 and measurement.error is None for measurement in timer.measurements)


@pytest.mark.parametrize('after, error, text', [
    (0, torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 PiB.'), OUT_OF_MEMORY),
    (3, torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 PiB.'), OUT_OF_MEMORY),
    (1, RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"), OUT_OF_MEMORY),
    (2, InputError('this explains itself.'), 'this explains itself.'),
    (0, RuntimeError('shapes\n do not match'), 'RuntimeError: shapes do not match'),
    (2, KeyError(), 'KeyError'),
])
def test_one_that_fails_says_why_and_the_rest_goes_on(after, error, text):
    timer = run_timer(make_candidate('full'), make_candidate('broken', error=error, after=after), make_candidate('last'))
    assert [measurement.error for measurement in timer.measurements] == [None, text, None]
    assert [len(measurement.training) for measurement in timer.measurements] == [3, max(after - 2, 0), 3]
    table = Comparison('toys', WORK, timer.measurements).format_table()
    assert text in table and 'full' in table and 'last' in table


def test_memory_is_measured_when_the_optimizer_has_its_state():
    """In half precision the first steps overflow, and none of them makes it."""

    class Steep(Toy):

        def forward(self, x):
            return (1000 * self.conv(x), )

    found = {}
    for dtype in ('fp32', 'fp16'):
        timer = run_timer(Candidate('steep', Steep, dtype), work=Workload(size=(8, 8), rounds=1))
        assert timer.measurements[0].error is None
        found[dtype] = timer.measurements[0].resident
    assert found['fp32'] == found['fp16'] > 3 * 4 * timer.measurements[0].trainable


def test_gradients_that_always_overflow_are_said_so():

    class Broken(Toy):

        def forward(self, x):
            return (float('inf') * self.conv(x), )

    timer = run_timer(Candidate('broken', Broken, 'fp16'), make_candidate('full'))
    assert 'after 20 steps the gradients still overflow: use dtype bf16 or fp32' in timer.measurements[0].error
    assert len(timer.measurements[1].training) == 3


def test_every_row_is_compiled(monkeypatch):
    """Models share code, of which the compiler keeps few versions unless it is told."""
    graphs = []
    original = torch.compile
    monkeypatch.setattr(torch, 'compile',
                        lambda model: original(model, backend=lambda graph, inputs: graphs.append(graph) or graph.forward))
    torch._dynamo.reset()
    timer = run_timer(*(make_candidate(str(i)) for i in range(10)), work=Workload(size=(8, 8), rounds=1, compile=True))
    assert [measurement.error for measurement in timer.measurements] == [None] * 10
    assert len(graphs) >= 20, 'one for training and one for inference'
    torch._dynamo.reset()


def test_what_a_compiler_refuses_is_said_by_its_first_error():
    error = RuntimeError("CppCompileError: C++ compile error\n\nCommand:\ng++ a.cpp -O3\n\nOutput:\na.cpp:1:2: error: "
                         "'decltype' evaluates to 'float'\n 2844 | return decltype(a)::b;\na.cpp:9:2: error: another")
    assert run_timer(make_candidate('broken', error=error, after=0)).measurements[0].error == (
        "torch.compile wrote C++ that the compiler refuses ('decltype' evaluates to 'float'): run it with compile=False")


def test_one_that_cannot_be_built_says_so():

    def fail():
        raise TypeError('no such option')

    timer = run_timer(Candidate('broken', fail), make_candidate('full'))
    assert timer.measurements[0].error == 'TypeError: no such option' and len(timer.measurements[1].training) == 3


def test_a_dtype_that_the_device_lacks_costs_its_rows_only(monkeypatch):
    monkeypatch.setattr(timing, 'supports_dtype', lambda device, dtype: dtype != 'fp16')
    timer = run_timer(make_candidate(dtype='fp32'), make_candidate(dtype='fp16'), make_candidate(dtype='bf16'))
    assert [measurement.error for measurement in timer.measurements] == [None, 'this device has no fp16', None]
    assert [len(measurement.training) for measurement in timer.measurements] == [3, 0, 3]


@pytest.mark.parametrize('failure', [RuntimeError('"conv" not implemented for Half'), None])
def test_support_of_a_dtype_is_found_out_by_computing(monkeypatch, failure):
    """By an error, or by autocast that left the numbers in single precision."""

    def forward(layer, x):
        if failure:
            raise failure
        return x + layer.bias.view(1, -1, 1, 1)

    assert timing.supports_dtype(CPU, 'fp32') and timing.supports_dtype(CPU, 'bf16')
    monkeypatch.setattr(nn.Conv2d, 'forward', forward)
    assert timing.supports_dtype(CPU, 'fp32') and not timing.supports_dtype(CPU, 'fp16')


def test_without_triton_its_row_says_so(monkeypatch):
    monkeypatch.setattr(timing, 'has_triton', lambda: False)
    timer = run_timer(make_candidate('adaroute', ops='triton'), make_candidate('adaroute', ops='reference'))
    lacks, runs = timer.measurements
    assert lacks.error == 'Triton, or the C compiler that it needs, is not installed' and runs.error is None


def test_every_row_runs_on_its_own_path():
    seen = []

    class Spy(Toy):

        def forward(self, x):
            seen.append(dispatch.select_backend(x))
            return super().forward(x)

    rows = [Candidate('adaroute', Spy, ops=backend) for backend in ('reference', 'fused')]
    run_timer(*rows, work=Workload((8, 8), rounds=1))
    assert set(seen) == {'reference', 'fused'} and seen[-4:] == ['reference', 'reference', 'fused', 'fused']


def test_a_backbone_without_trainable_parameters_is_an_error_of_its_row():
    timer = run_timer(Candidate('frozen', lambda: Toy().requires_grad_(False)))
    assert 'no parameter of this backbone is trainable' in timer.measurements[0].error


def test_no_round_begins_when_the_time_is_over():
    timer = run_timer(make_candidate(), work=Workload((8, 8), rounds=50, seconds=0.))
    assert len(timer.measurements[0].training) == 1 and timer.stopped == 'stopped after 1 of 50 rounds: the time was over'
    assert timer.stopped in Comparison('toys', timer.work, timer.measurements, stopped=timer.stopped).format_table()


def test_the_loss_weighs_every_output_and_is_the_same_for_all_rows():
    outputs = [torch.ones(2, 3), torch.ones(1, 4, 2, 2)]
    first, second = (timing.BenchmarkBatch(WORK).draw_weights(outputs) for _ in range(2))
    for output, a, b in zip(outputs, first, second, strict=True):
        assert torch.equal(a, b) and a.shape == output.shape and (a != 0).all()
    half, = timing.BenchmarkBatch(WORK).draw_weights([outputs[0].half()])
    assert half.dtype == torch.float16 and torch.equal(half, first[0].half())


def test_a_step_moves_the_weights_by_the_gradient_of_the_loss():
    batch = timing.BenchmarkBatch(WORK)
    model = timing.BenchmarkModel(make_candidate(), WORK, batch)
    weight = model.model.conv.weight
    output, = model.forward()
    gradient, = torch.autograd.grad((output * batch.draw_weights([output])[0]).sum(), weight)
    before = weight.detach().clone()
    model.train_step()
    assert torch.equal((weight - before).sign(), -gradient.sign())  # the first step of AdamW; the decay is smaller
    assert all(parameter.grad is None for parameter in model.parameters)


def test_peak_memory_is_what_a_step_holds_at_most():
    x = torch.ones(1000)

    def step():
        a = x + 1  # 4000 bytes
        b = torch.cat([a, a])  # 8000 more
        del a, b
        return x * 2  # 4000 alone

    assert 12000 <= measure_peak(step, CPU) < 12200  # some bytes for the number 1


def test_resident_bytes_are_parameters_buffers_and_optimizer_state():
    model = timing.BenchmarkModel(make_candidate(), WORK, timing.BenchmarkBatch(WORK))
    parameters = 4 * (3 * 4 * 9 + 4)
    assert model.count_resident_bytes() == parameters
    model.train_step()
    assert model.count_resident_bytes() == 3 * parameters + 2 * 4, 'two moments each, and the number of steps'
