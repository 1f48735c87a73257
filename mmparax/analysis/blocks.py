"""The blocks of a backbone: finding them, selecting some, and recording their outputs."""
import difflib
import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmparax.backbones.adapted import AdaptedBackbone
from mmparax.errors import InputError, ParameterError

# What residual units are called in the toolboxes; a container of several is none itself.
BLOCK_NAMES = re.compile(r'(Block|Bottleneck|Residual|Layer|LayerV\d)$')
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class NamedBlock:
    """A block of a backbone, or another module whose output is recorded.

    Attributes:
        label: ``'3.2'`` for the second block of the third stage; the module's name if it is no block.
        name: of the module in the backbone.
        stage: from 1 on; 0 if it is in none.
        module: the module.
    """
    label: str
    name: str
    stage: int
    module: nn.Module


def find_blocks(backbone: nn.Module) -> list[NamedBlock]:
    """Find the blocks of a backbone, in order, stage by stage.

    The backbones of mmparax know their blocks. In others a block is a module whose class is called so (``...Block``,
    ``Bottleneck``, ``...Layer``, ``...Residual``), the outermost of them, and a stage is a list of blocks.
    """
    names = {module: name for name, module in backbone.named_modules()}
    if isinstance(backbone, AdaptedBackbone):
        stages: list[list[nn.Module]] = backbone.stage_blocks()
    else:
        by_list: dict[str, list[nn.Module]] = {}
        for module in _find_outermost(backbone):
            by_list.setdefault(names[module].rpartition('.')[0], []).append(module)
        stages = list(by_list.values())
    return [
        NamedBlock(f'{stage}.{number}', names[module], stage, module) for stage, modules in enumerate(stages, 1)
        for number, module in enumerate(modules, 1)
    ]


def _find_outermost(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if BLOCK_NAMES.search(type(child).__name__) and not isinstance(child, CONTAINERS):
            yield child
        else:
            yield from _find_outermost(child)


def select_blocks(backbone: nn.Module, patterns: Sequence[str] | None = None) -> list[NamedBlock]:
    """Select blocks by patterns; they come in the order of the backbone.

    Args:
        backbone: a backbone.
        patterns: labels (``3.2``) or names of modules (``stages.2.blocks.1``), with ``*``. A pattern that fits no block may
            fit other modules (``stages.2.blocks.*.attn``). None: all blocks.

    Raises:
        InputError: if the backbone has no known blocks and no patterns are given.
        ParameterError: if a pattern fits nothing; it lists the blocks.
    """
    blocks = find_blocks(backbone)
    if not patterns:
        if not blocks:
            raise InputError(f'{type(backbone).__name__} has no blocks of a known kind. Select modules by name (blocks), such as '
                             f'{", ".join(name for name, _ in backbone.named_children())}.')
        return blocks
    block_names = {block.name for block in blocks}
    others = [
        NamedBlock(name, name, next((block.stage for block in blocks if name.startswith(block.name + '.')), 0), module)
        for name, module in backbone.named_modules() if name and name not in block_names
    ]
    selected: dict[str, NamedBlock] = {}
    for pattern in patterns:
        fitting = [block for block in blocks if any(fnmatch.fnmatchcase(name, pattern) for name in (block.label, block.name))]
        fitting = fitting or [block for block in others if fnmatch.fnmatchcase(block.name, pattern)]
        if not fitting:
            near = difflib.get_close_matches(pattern, [name for block in blocks for name in (block.label, block.name)], 1)
            known = ', '.join(f'{block.label} ({block.name})' for block in blocks) or 'none of a known kind'
            raise ParameterError('blocks', pattern, f'{type(backbone).__name__} has the blocks {known}',
                                 f'Did you mean {near[0]}?' if near else '')
        selected.update({block.name: block for block in fitting})
    order = [name for name, _ in backbone.named_modules()]
    return sorted(selected.values(), key=lambda block: order.index(block.name))


@contextmanager
def record_outputs(blocks: Sequence[NamedBlock], reduce: Callable[[Tensor], Tensor]) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of some blocks while the context is open.

    Each output is reduced as soon as it is there, so that no more than one is in memory.

    Args:
        blocks: whose outputs to record.
        reduce: what to keep of an output; of a tuple the first tensor is taken.

    Yields:
        dict: name of a block -> what was kept of its last output.

    Raises:
        InputError: in the forward, if a module does not give a tensor.
    """
    records: dict[str, Tensor] = {}

    def make_hook(name: str) -> Callable[..., None]:

        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            while isinstance(output, (tuple, list)) and output:
                output = output[0]
            if not isinstance(output, Tensor):
                raise InputError(f'the module {name} gives a {type(output).__name__}, not a tensor. Select other blocks.')
            records[name] = reduce(output)

        return record

    handles = [block.module.register_forward_hook(make_hook(block.name)) for block in blocks]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()
