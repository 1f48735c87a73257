"""Training steps of backbones, timed side by side: forward, backward and optimizer step, without data or head.

All models are built first and then take turns, one after another in every round, each round beginning with another one:
what else happens on the machine meets all of them alike.
"""
import gc
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mmparax.benchmark.candidates import Candidate
from mmparax.errors import InputError, TrainingError, UserError
from mmparax.ops.cpu.build import load_library
from mmparax.ops.dispatch import use_backend
from mmparax.ops.triton import has_triton

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
OUT_OF_MEMORY = 'out of memory'
MOST_SKIPPED = 20  # steps, each at half the scale of the one before
MEMORY = dict(
    cuda='peak of the bytes that PyTorch\'s allocator holds for the method in a training step: parameters, buffers and '
    'optimizer state, and the peak of what the step adds (activations, gradients, workspaces)',
    cpu='peak of the bytes that PyTorch\'s allocator holds for the method in a training step: parameters, buffers and '
    'optimizer state, and the peak of what the step adds (activations, gradients), as its profiler records every '
    'allocation; scratch space inside the CPU libraries is not in it')


@dataclass
class Workload:
    """What every model does.

    Args:
        size: (H, W) in pixels.
        batch: images in a step.
        device: where.
        rounds: turns of each model.
        warmup: steps of each model before the first round, at least 1; one more measures memory.
        steps: training steps, and inferences, in a turn.
        seconds: no round begins after so many from the start, but for the first; None: no limit.
        compile: whether the models go through ``torch.compile``.
    """
    size: tuple[int, int]
    batch: int = 1
    device: torch.device = torch.device('cpu')
    rounds: int = 5
    warmup: int = 1
    steps: int = 1
    seconds: float | None = None
    compile: bool = False


@dataclass
class Measurement:
    """What was found out about one candidate.

    Attributes:
        candidate: it.
        trainable: trainable parameters.
        resident: bytes of parameters, buffers and optimizer state.
        peak: bytes, see ``MEMORY``.
        skipped: turns in which the gradient scaler left out an optimizer step.
        training: seconds of a training step, a value for each round.
        inference: seconds of an inference, a value for each round.
        error: one sentence if it failed.
    """
    candidate: Candidate
    trainable: int | None = None
    resident: int | None = None
    peak: int | None = None
    skipped: int = 0
    training: list[float] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    error: str | None = None

    def compute_median_step(self) -> float | None:
        """Median seconds of a training step."""
        return median(self.training) if self.training else None


def list_outputs(features: Any) -> list[Tensor]:
    """All tensors in what a backbone returned."""
    return [features] if isinstance(features, Tensor) else [tensor for part in features for tensor in list_outputs(part)]


class BenchmarkBatch:
    """Random images, and fixed random weights of all outputs, whose weighted sum is the loss.

    The weights are the gradient of that loss: every stage gets gradients, and the loss itself takes no time or memory.

    Args:
        work: tells the size, the number and the place of the images.
    """

    def __init__(self, work: Workload):
        self.images = self._draw((work.batch, 3, *work.size), 0).to(work.device)
        self._weights: dict[Any, Tensor] = {}

    @staticmethod
    def _draw(shape: Sequence[int], seed: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def draw_weights(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """A weight for each number in the outputs, the same whenever they have these shapes."""
        for i, output in enumerate(outputs):
            if (i, output.shape, output.dtype) not in self._weights:
                weight = self._draw(output.shape, i) / output.numel()**0.5
                self._weights[i, output.shape, output.dtype] = weight.to(output.device, output.dtype)
        return [self._weights[i, output.shape, output.dtype] for i, output in enumerate(outputs)]


class BenchmarkModel:
    """A backbone with what it needs to train: optimizer, gradient scaler, batch.

    Args:
        candidate: what to build.
        work: what to do.
        batch: what to train on.
    """

    def __init__(self, candidate: Candidate, work: Workload, batch: BenchmarkBatch):
        self.work, self.batch, self.dtype = work, batch, DTYPES[candidate.dtype]
        self.ops = candidate.ops
        torch.manual_seed(0)
        self.model = candidate.build().to(work.device)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise InputError('no parameter of this backbone is trainable, so there is no training step.')
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, weight_decay=0.05)
        self.scaler = torch.amp.GradScaler(work.device.type, enabled=candidate.dtype == 'fp16')
        self.run = torch.compile(self.model) if work.compile else self.model

    def choose_backend(self) -> AbstractContextManager:
        """Run the operations inside by the candidate's backend, if it has a choice."""
        return use_backend(self.ops) if self.ops else nullcontext()

    def forward(self) -> list[Tensor]:
        with torch.autocast(self.work.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return list_outputs(self.run(self.batch.images))

    def train_step(self) -> None:
        with self.choose_backend():
            outputs = [output for output in self.forward() if output.requires_grad]
            torch.autograd.backward(outputs, self.scaler.scale(self.batch.draw_weights(outputs)))
            del outputs
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def infer(self) -> None:
        with torch.no_grad(), self.choose_backend():
            self.forward()

    def time_steps(self, step: Callable[[], None], training: bool) -> float:
        """Mean seconds of a step in one turn."""
        self.model.train(training)
        synchronize(self.work.device)
        start = time.perf_counter()
        for _ in range(self.work.steps):
            step()
        synchronize(self.work.device)
        return (time.perf_counter() - start) / self.work.steps

    def count_resident_bytes(self) -> int:
        """Bytes of parameters, buffers and optimizer state, each storage once."""
        state = [value for values in self.optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
        storages = [tensor.untyped_storage() for tensor in (*self.model.parameters(), *self.model.buffers(), *state)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def prepare(self, measurement: Measurement) -> None:
        """Warm up, then measure memory in one more step."""
        measurement.trainable = sum(parameter.numel() for parameter in self.parameters)
        self.model.train()
        for _ in range(self.work.warmup):
            self.train_step()
        # Steps that the gradient scaler leaves out make no optimizer state, and it begins with a scale that overflows.
        for _ in range(MOST_SKIPPED):
            if self.optimizer.state:
                break
            self.train_step()
        if not self.optimizer.state:
            raise TrainingError(f'after {MOST_SKIPPED} steps the gradients still overflow: use dtype bf16 or fp32.')
        measurement.resident = self.count_resident_bytes()
        measurement.peak = measurement.resident + measure_peak(self.train_step, self.work.device)
        self.model.eval()
        self.infer()

    def take_turn(self, measurement: Measurement) -> None:
        """One turn of a round."""
        if self.work.device.type == 'cuda':
            self.train_step()  # untimed: the allocator takes over what another model's turn has left
        scale = self.scaler.get_scale()
        training, inference = self.time_steps(self.train_step, True), self.time_steps(self.infer, False)
        measurement.skipped += self.scaler.get_scale() < scale
        measurement.training.append(training)
        measurement.inference.append(inference)


def synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def measure_peak(step: Callable[[], None], device: torch.device) -> int:
    """Peak of the bytes that ``step`` holds in PyTorch's allocator beyond what was there before it."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about several cycles of profiling, and there is one
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]')
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def profile_step(candidate: Candidate, work: Workload, operations: int = 20) -> str:
    """The operations that take most of a training step, as a table of PyTorch's profiler."""
    model = BenchmarkModel(candidate, work, BenchmarkBatch(work))
    cuda = work.device.type == 'cuda'
    with model.choose_backend():
        for _ in range(work.warmup):
            model.train_step()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about several cycles of profiling, and there is one
            with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiler:
                model.train_step()
                synchronize(work.device)
    return profiler.key_averages().table(sort_by='self_cuda_time_total' if cuda else 'self_cpu_time_total', row_limit=operations,
                                         max_name_column_width=48)


def explain_failure(error: BaseException, device: torch.device) -> str:
    """Say in one sentence what went wrong."""
    text = ' '.join(str(error).split())
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
        return OUT_OF_MEMORY
    if isinstance(error, UserError):
        return text
    refused = re.search(r'CppCompileError: .*? error: (.*?)(?= \d+ \||$)', text)
    if refused:
        return f"torch.compile wrote C++ that the compiler refuses ({refused[1]}): run it with compile=False"
    return f'{type(error).__name__}: {text[:160]}{"..." if len(text) > 160 else ""}'.rstrip(': ')


def find_obstacle(candidate: Candidate, device: torch.device) -> str | None:
    """What the device or the installation lacks for a candidate; None if nothing."""
    if not supports_dtype(device, candidate.dtype):
        return f'this device has no {candidate.dtype}'
    if candidate.ops == 'triton' and not has_triton():
        return 'Triton, or the C compiler that it needs, is not installed'
    if candidate.ops == 'cpu' and (device.type != 'cpu' or candidate.dtype != 'fp32' or load_library(torch.float32) is None):
        return 'the operations in C run in fp32 on CPUs, on Linux with a C compiler'
    return None


def supports_dtype(device: torch.device, dtype: str) -> bool:
    """Whether a device computes in a data type, found out by a small convolution and its gradient."""
    if dtype == 'fp32':
        return True
    if device.type == 'cuda' and dtype == 'bf16' and torch.version.cuda and torch.cuda.get_device_capability(device) < (8, 0):
        return False  # it would be emulated
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # autocast says that it switches itself off
            x = torch.ones(1, 4, 8, 8, device=device)
            layer = nn.Conv2d(4, 4, 3).to(device)
            with torch.autocast(device.type, DTYPES[dtype]):
                y = layer(x)
            y.float().sum().backward()
    except RuntimeError:
        return False
    return y.dtype == DTYPES[dtype]


def free_memory(device: torch.device) -> None:
    """Give back the memory of a model that is gone."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()


@contextmanager
def keep_compiled_graphs(work: Workload, models: int) -> Iterator[None]:
    """Let ``torch.compile`` keep the graphs of so many models, which share code; one more is an error, not a silent fallback."""
    if not work.compile:
        yield
        return
    from torch._dynamo import config  # slow to import
    with config.patch(cache_size_limit=8 + 4 * models, fail_on_cache_limit_hit=True):
        yield


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Compute on ``count`` threads meanwhile; None: leave them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class InterleavedTimer:
    """Measures candidates side by side.

    Args:
        candidates: what to compare.
        work: what each does.
        progress: called with a text before each piece of work.

    Attributes:
        measurements: one for each candidate, in order; filled as far as the timer came.
        stopped: why it ended before the last round, or None.
    """

    def __init__(self, candidates: Sequence[Candidate], work: Workload, progress: Callable[[str], None] = lambda text: None):
        self.work, self.progress = work, progress
        self.measurements = [Measurement(candidate) for candidate in candidates]
        self.stopped: str | None = None
        self._models: dict[int, BenchmarkModel] = {}
        self._batch: BenchmarkBatch | None = None

    def run(self) -> None:
        """Prepare all, then go round after round; a candidate that fails drops out with a sentence.

        Raises:
            KeyboardInterrupt: with all that was measured before in ``measurements``.
        """
        start = time.perf_counter()
        try:
            with keep_compiled_graphs(self.work, len(self.measurements)):
                for index, measurement in enumerate(self.measurements):
                    self.progress(f'preparing {measurement.candidate.label}')
                    self._try(index, self._prepare)
                self._take_turns(start)
        except KeyboardInterrupt:
            self.stopped = 'interrupted'
            raise
        finally:
            self._models.clear()
            self._batch = None
            free_memory(self.work.device)

    def _take_turns(self, start: float) -> None:
        """All rounds, or as many as begin in time."""
        for number in range(self.work.rounds):
            if number and self.work.seconds is not None and time.perf_counter() - start > self.work.seconds:
                self.stopped = f'stopped after {number} of {self.work.rounds} rounds: the time was over'
                break
            for index in self.list_turns(number):
                self.progress(f'round {number + 1}/{self.work.rounds}: {self.measurements[index].candidate.label}')
                self._try(index, lambda i: self._models[i].take_turn(self.measurements[i]))

    def list_turns(self, number: int) -> list[int]:
        """The candidates of a round by number: all that still run, each round beginning with the next one."""
        alive = sorted(self._models)
        first = number % max(len(alive), 1)
        return alive[first:] + alive[:first]

    def _prepare(self, index: int) -> None:
        measurement = self.measurements[index]
        obstacle = find_obstacle(measurement.candidate, self.work.device)
        if obstacle:
            raise InputError(obstacle)
        self._batch = self._batch or BenchmarkBatch(self.work)
        model = BenchmarkModel(measurement.candidate, self.work, self._batch)
        model.prepare(measurement)
        self._models[index] = model

    def _try(self, index: int, action: Callable[[int], None]) -> None:
        """Do something with a candidate; if it fails, it drops out, its memory is freed and the others go on."""
        try:
            action(index)
            return
        except Exception as error:  # whatever a method does wrong, the others are measured
            self.measurements[index].error = explain_failure(error, self.work.device)
        self._models.pop(index, None)
        try:
            free_memory(self.work.device)
        except RuntimeError:
            pass  # after a fault of the GPU nothing can be freed; the others say so themselves
