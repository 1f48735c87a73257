"""Training steps of backbones, timed side by side: forward, backward and optimizer step, without data or head.

All models are built first and then take turns, one after another in every round, each round beginning with another one:
what else happens on the machine meets all of them alike.
"""
import gc
import re
import time
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mmparax.benchmark.candidates import Contender
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
    size: Tuple[int, int]
    batch: int = 1
    device: torch.device = torch.device('cpu')
    rounds: int = 5
    warmup: int = 1
    steps: int = 1
    seconds: Optional[float] = None
    compile: bool = False


@dataclass
class Measured:
    """What was found out about one contender; seconds are those of one step, a value for each round.

    Attributes:
        trainable: trainable parameters.
        resident: bytes of parameters, buffers and optimizer state.
        peak: bytes, see ``MEMORY``.
        skipped: turns in which the gradient scaler left out an optimizer step.
        error: one sentence if it failed.
    """
    contender: Contender
    trainable: Optional[int] = None
    resident: Optional[int] = None
    peak: Optional[int] = None
    skipped: int = 0
    training: List[float] = field(default_factory=list)
    inference: List[float] = field(default_factory=list)
    error: Optional[str] = None

    def step(self) -> Optional[float]:
        """Median seconds of a training step."""
        return median(self.training) if self.training else None


def outputs_of(features: Any) -> List[Tensor]:
    """All tensors in what a backbone returned."""
    return [features] if isinstance(features, Tensor) else [tensor for part in features for tensor in outputs_of(part)]


class Batch:
    """Random images, and the gradient of a loss that is a sum of all outputs with fixed random weights: those weights.

    Every stage gets gradients by it, and no time or memory goes into the loss itself.

    Args:
        work: tells the size, the number and the place of the images.
    """

    def __init__(self, work: Workload):
        self.images = self._random((work.batch, 3, *work.size), 0).to(work.device)
        self._weights: Dict[Any, Tensor] = {}

    @staticmethod
    def _random(shape: Sequence[int], seed: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def weights(self, outputs: Sequence[Tensor]) -> List[Tensor]:
        """A weight for each number in the outputs, the same whenever they have these shapes."""
        for i, output in enumerate(outputs):
            if (i, output.shape, output.dtype) not in self._weights:
                weight = self._random(output.shape, i) / output.numel()**0.5
                self._weights[i, output.shape, output.dtype] = weight.to(output.device, output.dtype)
        return [self._weights[i, output.shape, output.dtype] for i, output in enumerate(outputs)]


class Trainee:
    """A model with what it needs to train.

    Args:
        contender: what to build.
        work: what to do.
        batch: what to train on.
    """

    def __init__(self, contender: Contender, work: Workload, batch: Batch):
        self.work, self.batch, self.dtype = work, batch, DTYPES[contender.dtype]
        self.path: Callable[[], ContextManager] = lambda: use_backend(contender.ops) if contender.ops else nullcontext()
        torch.manual_seed(0)
        self.model = contender.build().to(work.device)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise InputError('nothing trains in this backbone, so there is no training step.')
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, weight_decay=0.05)
        self.scaler = torch.amp.GradScaler(work.device.type, enabled=contender.dtype == 'fp16')
        self.run = torch.compile(self.model) if work.compile else self.model

    def forward(self) -> List[Tensor]:
        with torch.autocast(self.work.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return outputs_of(self.run(self.batch.images))

    def train_step(self) -> None:
        with self.path():
            outputs = [output for output in self.forward() if output.requires_grad]
            torch.autograd.backward(outputs, self.scaler.scale(self.batch.weights(outputs)))
            del outputs
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def infer(self) -> None:
        with torch.no_grad(), self.path():
            self.forward()

    def timed(self, step: Callable[[], None], training: bool) -> float:
        """Mean seconds of a step in one turn."""
        self.model.train(training)
        synchronize(self.work.device)
        start = time.perf_counter()
        for _ in range(self.work.steps):
            step()
        synchronize(self.work.device)
        return (time.perf_counter() - start) / self.work.steps

    def resident(self) -> int:
        """Bytes of parameters, buffers and optimizer state, each storage once."""
        state = [value for values in self.optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
        storages = [tensor.untyped_storage() for tensor in (*self.model.parameters(), *self.model.buffers(), *state)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def prepare(self, measured: Measured) -> None:
        """Warm up, then measure memory in one more step."""
        measured.trainable = sum(parameter.numel() for parameter in self.parameters)
        self.model.train()
        for _ in range(self.work.warmup):
            self.train_step()
        # Steps that the gradient scaler leaves out make no optimizer state, and it begins with a scale that overflows.
        for _ in range(MOST_SKIPPED):
            if self.optimizer.state:
                break
            self.train_step()
        if not self.optimizer.state:
            raise TrainingError(f'after {MOST_SKIPPED} steps the gradients still overflow: use --dtype bf16 or fp32.')
        measured.resident = self.resident()
        measured.peak = measured.resident + peak_of(self.train_step, self.work.device)
        self.model.eval()
        self.infer()

    def turn(self, measured: Measured) -> None:
        """One turn of a round."""
        if self.work.device.type == 'cuda':
            self.train_step()  # untimed: the allocator takes over what another model's turn has left
        scale = self.scaler.get_scale()
        training, inference = self.timed(self.train_step, True), self.timed(self.infer, False)
        measured.skipped += self.scaler.get_scale() < scale
        measured.training.append(training)
        measured.inference.append(inference)


def synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_of(step: Callable[[], None], device: torch.device) -> int:
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
    changes = sorted((event.start_ns(), event.nbytes()) for event in profiler.profiler.kineto_results.events()
                     if event.name() == '[memory]')
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def profile_step(contender: Contender, work: Workload, operations: int = 20) -> str:
    """The operations that take most of a training step, as a table of PyTorch's profiler."""
    trainee = Trainee(contender, work, Batch(work))
    cuda = work.device.type == 'cuda'
    with trainee.path():
        for _ in range(work.warmup):
            trainee.train_step()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about several cycles of profiling, and there is one
            with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiler:
                trainee.train_step()
                synchronize(work.device)
    return profiler.key_averages().table(sort_by='self_cuda_time_total' if cuda else 'self_cpu_time_total',
                                         row_limit=operations, max_name_column_width=48)


def why(error: BaseException, device: torch.device) -> str:
    """What went wrong, in one sentence."""
    text = ' '.join(str(error).split())
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
        return OUT_OF_MEMORY
    if isinstance(error, UserError):
        return text
    refused = re.search(r'CppCompileError: .*? error: (.*?)(?= \d+ \||$)', text)
    if refused:
        return f"torch.compile wrote C++ that the compiler refuses ({refused[1]}): run it without --compile"
    return f'{type(error).__name__}: {text[:160]}{"..." if len(text) > 160 else ""}'.rstrip(': ')


def lacking(contender: Contender, device: torch.device) -> Optional[str]:
    """What the device or the installation lacks for a contender; None if nothing."""
    if not supports(device, contender.dtype):
        return f'this device has no {contender.dtype}'
    if contender.ops == 'triton' and not has_triton():
        return 'Triton, or the C compiler that it needs, is not installed'
    if contender.ops == 'cpu' and (device.type != 'cpu' or contender.dtype != 'fp32' or load_library(torch.float32) is None):
        return 'the operations in C run in fp32 on CPUs, on Linux with a C compiler'
    return None


def supports(device: torch.device, dtype: str) -> bool:
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


def clean_up(device: torch.device) -> None:
    """Give back what a model held that is gone."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()


@contextmanager
def compiling(work: Workload, models: int) -> Iterator[None]:
    """Let ``torch.compile`` keep graphs of so many models, which share code; one beyond them is an error, not uncompiled."""
    if not work.compile:
        yield
        return
    from torch._dynamo import config  # slow to import
    with config.patch(cache_size_limit=8 + 4 * models, fail_on_cache_limit_hit=True):
        yield


@contextmanager
def threads(count: Optional[int]) -> Iterator[None]:
    """Compute on so many threads; None: as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Race:
    """Measures contenders side by side.

    Args:
        contenders: what to compare.
        work: what each does.
        progress: called with a text before each piece of work.

    Attributes:
        measured: one for each contender, in order; filled as far as the race went.
        stopped: why it ended before the last round, or None.
    """

    def __init__(self, contenders: Sequence[Contender], work: Workload, progress: Callable[[str], None] = lambda text: None):
        self.work, self.progress = work, progress
        self.measured = [Measured(contender) for contender in contenders]
        self.stopped: Optional[str] = None
        self._trainees: Dict[int, Trainee] = {}
        self._batch: Optional[Batch] = None

    def run(self) -> None:
        """Prepare all, then go round after round; a contender that fails drops out with a sentence.

        Raises:
            KeyboardInterrupt: with all that was measured before in ``measured``.
        """
        start = time.perf_counter()
        try:
            with compiling(self.work, len(self.measured)):
                for index, measured in enumerate(self.measured):
                    self.progress(f'preparing {measured.contender.label}')
                    self._guarded(index, self._prepare)
                self._take_turns(start)
        except KeyboardInterrupt:
            self.stopped = 'interrupted'
            raise
        finally:
            self._trainees.clear()
            self._batch = None
            clean_up(self.work.device)

    def _take_turns(self, start: float) -> None:
        """All rounds, or as many as begin in time."""
        for number in range(self.work.rounds):
            if number and self.work.seconds is not None and time.perf_counter() - start > self.work.seconds:
                self.stopped = f'stopped after {number} of {self.work.rounds} rounds: the time was over'
                break
            for index in self.order(number):
                self.progress(f'round {number + 1}/{self.work.rounds}: {self.measured[index].contender.label}')
                self._guarded(index, lambda i: self._trainees[i].turn(self.measured[i]))

    def order(self, number: int) -> List[int]:
        """Who takes turns in a round: all that still run, each round beginning with the next one."""
        alive = sorted(self._trainees)
        first = number % max(len(alive), 1)
        return alive[first:] + alive[:first]

    def _prepare(self, index: int) -> None:
        measured = self.measured[index]
        lack = lacking(measured.contender, self.work.device)
        if lack:
            raise InputError(lack)
        self._batch = self._batch or Batch(self.work)
        trainee = Trainee(measured.contender, self.work, self._batch)
        trainee.prepare(measured)
        self._trainees[index] = trainee

    def _guarded(self, index: int, action: Callable[[int], None]) -> None:
        """Do something with a contender; if it fails it drops out, what it held is freed and the rest goes on."""
        try:
            action(index)
            return
        except Exception as error:  # whatever a method does wrong, the others are measured
            self.measured[index].error = why(error, self.work.device)
        self._trainees.pop(index, None)
        try:
            clean_up(self.work.device)
        except RuntimeError:
            pass  # after a fault of the GPU nothing can be freed; the others say so themselves
