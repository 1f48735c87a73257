"""Bytes that autograd keeps for the backward pass: counted exactly, for each block and token, and predicted.

A training step holds parameters, gradients and optimizer state, whose size follows from the trainable parameters, and
these bytes, which depend on what its operations keep. A frozen layer has no gradient of its weights, and nothing is kept
for that; what the gradient of its input needs is still kept, for the gradients of earlier adapters pass through it.
"""
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from mmengine.registry import MODELS
from rich.table import Table
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from mmparax.benchmark.candidates import FULL, list_candidates, read_backbone_config
from mmparax.benchmark.timing import list_outputs
from mmparax.ops.recompute import observers
from mmparax.utils.tables import render_table

OUTSIDE = 'outside the blocks'
FROZEN, PASSED = 'frozen', 'frozen, gradients pass'


class SavedBytesCounter:
    """Counts what autograd saves, each storage once.

    Args:
        skip: tensors that are there anyway, such as parameters and inputs; views of them are not counted either.

    Attributes:
        parts: label -> bytes, in the order in which the labels came.
    """

    def __init__(self, skip: Iterable[Tensor] = ()):
        self._skip = {tensor.untyped_storage().data_ptr() for tensor in skip}
        self._kept: dict[int, Any] = {}  # the storages themselves: a freed one's address could come again
        self._labels: list[str] = []
        self.parts: dict[str, int] = {}

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self._skip and address not in self._kept:
            self._kept[address] = storage
            label = self._labels[-1] if self._labels else OUTSIDE
            self.parts[label] = self.parts.get(label, 0) + storage.nbytes()
        return tensor.detach()  # an operation's own result would hold the operation, and that it

    @contextmanager
    def count(self, modules: dict[str, nn.Module] | None = None) -> Iterator['SavedBytesCounter']:
        """Count what is saved inside.

        Args:
            modules: label -> module; what is saved in its forward is counted under its label.
        """
        handles = []
        for label, module in (modules or {}).items():
            self.parts.setdefault(label, 0)
            handles.append(module.register_forward_pre_hook(lambda *_, label=label: self._labels.append(label)))
            handles.append(module.register_forward_hook(lambda *_: self._labels.pop() and None, always_call=True))
        observers.append(self._pack)
        try:
            with saved_tensors_hooks(self._pack, lambda tensor: tensor):
                yield self
        finally:
            observers.remove(self._pack)
            for handle in handles:
                handle.remove()


@dataclass
class StageBytes:
    """The median block of a stage.

    Attributes:
        channels: C.
        tokens: of the whole batch.
        block_bytes: saved in the block.
        heads: of the attention, 0 without.
    """
    channels: int
    tokens: int
    block_bytes: float
    heads: int = 0

    @property
    def per_token(self) -> float:
        """Bytes."""
        return self.block_bytes / self.tokens


@dataclass
class SavedMemory:
    """What autograd saves in one method's backbone.

    Attributes:
        method: its name.
        efficient_attention: whether the attention of the base was the efficient one; None where there is no choice.
        total: bytes.
        stages: in order.
        error: why there is nothing.
    """
    method: str
    efficient_attention: bool | None
    total: int = 0
    stages: list[StageBytes] = field(default_factory=list)
    error: str | None = None


def predict_bytes_per_token(family: str, stage: StageBytes, frozen: bool, window: int) -> float | None:
    """Bytes per token that a block of upstream's saves in single precision, from its operations; None for other families.

    Counted are values per token in a map that windows divide: the inputs of norms (with mean and deviation), of linear
    maps with trainable weights, of depthwise convolutions and of the GELU, and what the attention saves. A frozen linear map
    saves no input; upstream's frozen convolution does. Exact in Swin where there are several windows and heads.

    Args:
        family: of the backbone.
        stage: its channels and heads.
        frozen: whether the base is.
        window: side of an attention window in tokens.
    """
    c = stage.channels
    norms_and_gelu = 2 * (c + 2) + 4 * c
    if family == 'Swin':
        both = norms_and_gelu + 3 * c + stage.heads * window**2  # queries, keys, values, softmax
        weights = 3 * c + 4 * c  # inputs of qkv, proj and fc1; of fc2
    elif family == 'ViT':
        both = norms_and_gelu + 4 * c + stage.heads  # fused attention: queries, keys, values, its output and a sum per head
        weights = 2 * c + 4 * c  # inputs of qkv and fc1; of fc2. That of proj is the attention's output
    elif family == 'ConvNeXt':
        both = c + (c + 2) + 4 * c  # convolution, norm, GELU
        weights = c + 4 * c + c  # inputs of both linear maps and of the layer scale
    else:
        return None
    return 4. * (both if frozen else both + weights)


def count_saved_bytes(backbone: Any, model: nn.Module, images: Tensor) -> tuple[int, list[StageBytes]]:
    """Count what one forward pass of a backbone saves: (total, stages).

    Args:
        backbone: the adapted class of the model's family, which knows where blocks are.
        model: an instance of it or of its upstream class.
        images: (B, 3, H, W).
    """
    blocks = {
        f'{stage}.{index}': block for stage, blocks in enumerate(backbone.stage_blocks(model))
        for index, block in enumerate(blocks)
    }
    shapes: dict[str, torch.Size] = {}
    handles = [
        block.register_forward_hook(lambda _, inputs, output, name=name: shapes.update({name: output.shape}))
        for name, block in blocks.items()
    ]
    counter = SavedBytesCounter([*model.parameters(), *model.buffers(), images])
    try:
        with counter.count(blocks):
            outputs = list_outputs(model(images))
    finally:
        for handle in handles:
            handle.remove()
    stages: dict[str, list[str]] = {}
    for name in blocks:
        stages.setdefault(name.partition('.')[0], []).append(name)
    found = []
    for names in stages.values():
        shape, block = shapes[names[0]], blocks[names[0]]
        channels = shape[1] if len(shape) == 4 else shape[2]  # a map or tokens
        heads = max((getattr(module, 'num_heads', 0) for module in block.modules()), default=0)
        found.append(StageBytes(channels, shape.numel() // channels, median(counter.parts[name] for name in names), heads))
    del outputs  # alive until here: what is saved stays saved
    return counter.total, found


def measure_saved(backbone: str, methods: Sequence[str], size: tuple[int, int], batch: int, efficient_attention: Sequence[bool],
                  with_cp: bool = False) -> list[SavedMemory]:
    """Count for each method; a prediction follows full fine-tuning and the frozen base with upstream's attention.

    The frozen base alone saves nothing, for nothing below its output norms needs a gradient. A second count of it lets
    gradients pass, as they do on their way to earlier adapters: what a method has beyond that, its adapters save.

    Args:
        backbone: one of the benchmark's.
        methods: some of the benchmark's.
        size: (H, W) in pixels.
        batch: images.
        efficient_attention: on, off or both.
        with_cp: recompute activations in the backward pass.
    """
    config = read_backbone_config(backbone)
    cls, window = MODELS.get(config['type']), config.get('window_size', 7)
    rows = []
    for candidate in list_candidates(backbone, methods, size, batch, ['fp32'], ['auto'], efficient_attention, with_cp):
        row = SavedMemory(candidate.method, candidate.efficient_attention)
        rows.append(row)
        try:
            torch.manual_seed(0)
            model = candidate.build()
            model.train()
            images = torch.randn(batch, 3, *size)
            row.total, row.stages = count_saved_bytes(cls, model, images)
            if candidate.method == FROZEN:
                row = SavedMemory(PASSED, candidate.efficient_attention, *count_saved_bytes(cls, model, images.requires_grad_()))
                rows.append(row)
        except (ValueError, TypeError, RuntimeError, MemoryError) as error:
            row.error = ' '.join(str(error).split())
            continue
        guess = [predict_bytes_per_token(cls.family, stage, row.method == PASSED, window) for stage in row.stages]
        if row.method in (FULL, PASSED) and not with_cp and not candidate.efficient_attention and None not in guess:
            rows.append(
                SavedMemory(
                    f'{row.method}: predicted', candidate.efficient_attention, stages=[
                        StageBytes(stage.channels, stage.tokens, value * stage.tokens, stage.heads)
                        for stage, value in zip(row.stages, guess)
                    ]))
    return rows


def format_saved_table(backbone: str, size: tuple[int, int], batch: int, rows: Sequence[SavedMemory]) -> str:
    """Bytes per token in the median block of each stage, also as multiples of the C values of a token, and the total."""
    count = max((len(row.stages) for row in rows), default=0)
    table = Table(title=f'Saved for the backward pass: {backbone}, {size[0]}x{size[1]}, batch {batch}, fp32; bytes per token '
                  'in the median block of a stage (in multiples of C values)')
    for name in ('method', 'efficient attention', *(f'stage {i + 1}' for i in range(count)), 'total, GB'):
        table.add_column(name, justify='left' if name in ('method', 'efficient attention') else 'right')
    for row in rows:
        texts = [f'{stage.per_token:,.0f} ({stage.per_token / 4 / stage.channels:.2f} C)' for stage in row.stages]
        table.add_row(row.method, {None: '–', True: 'on', False: 'off'}[row.efficient_attention], *(texts or [''] * count),
                      row.error or (f'{row.total / 1e9:.3f}' if row.total else '–'))
    return render_table(table, 160)
