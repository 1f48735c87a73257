"""What the routers of AdaRoute do: where they are, sums of their gates over images, and what the sums say.

Every statistic follows from sums over images, so that neither memory nor the cost of a training iteration grows with
their number. The rows of all routers with the same number of groups and experts are in one tensor.
"""
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmparax.adapters.adaroute import AdaRouteAdapter
from mmparax.backbones.adapted import find_adapted_backbones
from mmparax.backbones.block import find_adapter_modules
from mmparax.errors import InputError
from mmparax.utils.names import join_name

# An expert is dead if its mean usage is below this share of an equal one (1/M) and its gate is the largest of no image.
DEAD_SHARE = 0.1
# Gates do not depend on the input if their spread over the images is below this share of their mean.
FIXED_VARIATION = 0.01


@dataclass(frozen=True)
class RoutedAdapter:
    """An AdaRoute adapter of a model and where it is.

    Attributes:
        name: such as ``stage3/block02/after_token_mixer``; stages and blocks are counted from 1.
        module: path of the adapter in the model.
        stage, block, site: the parts of the name.
        center: name of the experts that it mixes, which other adapters share, such as ``stage3`` or ``stage3/center2``.
        groups: names of the G groups of gates: ``down``, ``up``, ``kernels.0``, ...
        num_experts: M.
        activation: of the router.
        router: the module whose output the gates are.
    """
    name: str
    module: str
    stage: int
    block: int
    site: str
    center: str
    groups: tuple[str, ...]
    num_experts: int
    activation: str
    router: nn.Module = field(repr=False)


def find_routed_adapters(model: nn.Module) -> list[RoutedAdapter]:
    """Find the AdaRoute adapters of a model, in the order of its blocks.

    Raises:
        InputError: if it has none.
    """
    found: list[RoutedAdapter] = []
    backbones = find_adapted_backbones(model)
    for path, backbone in backbones:
        front = f'{path}/' if len(backbones) > 1 else ''
        paths = {id(module): join_name(path, name) for name, module in find_adapter_modules(backbone)}
        for stage, blocks in enumerate(backbone.stage_blocks(), 1):
            routed = [(block, site.rpartition('.')[2], module) for block, parent in enumerate(blocks, 1)
                      for site, module in find_adapter_modules(parent) if isinstance(module, AdaRouteAdapter)]
            centers = list(dict.fromkeys(id(module.center) for _, _, module in routed))
            for block, site, module in routed:
                part = f'/center{centers.index(id(module.center)) + 1}' if len(centers) > 1 else ''
                kernels = tuple(f'kernels.{number}' for number in range(len(module.center.kernels)))
                found.append(
                    RoutedAdapter(name=f'{front}stage{stage}/block{block:02d}/{site}', module=paths[id(module)], stage=stage,
                                  block=block, site=site, center=f'{front}stage{stage}{part}', groups=('down', 'up', *kernels),
                                  num_experts=module.router.num_experts, activation=module.router.activation,
                                  router=module.router))
    if not found:
        raise InputError(f'{type(model).__name__} has no AdaRoute adapter, so it has no gates to look at. Use a config '
                         "with model.backbone.adapter=dict(type='mmparax.AdaRoute', ...).")
    return found


class GateReader:
    """A forward hook of one router: hands the detached gates on. Copies and pickles of it read nothing.

    Args:
        take: gets the gates (G, B, M) of each forward.
    """

    def __init__(self, take: Callable[[Tensor], None] | None = None):
        self._take = take

    def __call__(self, module: nn.Module, inputs: Any, gates: Sequence[Tensor]) -> None:
        if self._take is not None:
            self._take(torch.stack([gate.detach() for gate in gates]))

    def __deepcopy__(self, memo: dict[int, Any]) -> 'GateReader':
        return GateReader()

    def __reduce__(self) -> tuple[Any, ...]:
        return GateReader, ()


def attach_readers(adapters: Sequence[RoutedAdapter], take: Callable[[int, Tensor], None]) -> list[RemovableHandle]:
    """Let ``take(number of the adapter, gates (G, B, M))`` see the gates of every forward until the handles are removed."""

    def reader(number: int) -> GateReader:
        return GateReader(lambda gates: take(number, gates))

    return [adapter.router.register_forward_hook(reader(number)) for number, adapter in enumerate(adapters)]


def group_by_shape(adapters: Sequence[RoutedAdapter]) -> dict[tuple[int, int], list[int]]:
    """(G, M) -> the numbers of the adapters that have it."""
    shapes: dict[tuple[int, int], list[int]] = {}
    for number, adapter in enumerate(adapters):
        shapes.setdefault((len(adapter.groups), adapter.num_experts), []).append(number)
    return shapes


def normalize_gates(gates: Tensor) -> Tensor:
    """Gates (..., M) divided by their sum: softmax gates as they are, sigmoid gates as a distribution."""
    return gates / gates.sum(-1, keepdim=True).clamp_min(torch.finfo(gates.dtype).tiny)


def compute_entropy(distribution: Tensor) -> Tensor:
    """Entropy in nats of distributions (..., M)."""
    return -torch.xlogy(distribution, distribution).sum(-1)


class GateSums:
    """Sums over images of what the statistics need, in float64, for all routers of a model.

    Adding does not wait for the device.

    Args:
        adapters: from :func:`find_routed_adapters`.

    Attributes:
        images: number of images so far.
        sums: (G, M) -> (A, G, 4 * M + 1): gates, their squares, shares, whether the gate is the largest (ties are split),
            and the entropy of the shares.
    """

    def __init__(self, adapters: Sequence[RoutedAdapter]):
        self.adapters = list(adapters)
        self.shapes = group_by_shape(adapters)
        self.clear()

    def clear(self) -> None:
        self.images = 0
        self.sums: dict[tuple[int, int], Tensor] = {}

    def add(self, gates: Mapping[int, Tensor]) -> None:
        """Add the gates (G, B, M) of every adapter for the same B images.

        Args:
            gates: number of the adapter -> its gates.
        """
        for shape, numbers in self.shapes.items():
            x = torch.stack([gates[number] for number in numbers]).double()
            part = normalize_gates(x)
            largest = (x == x.amax(-1, keepdim=True)).double()
            largest /= largest.sum(-1, keepdim=True)
            entropy = compute_entropy(part)
            new = torch.cat([x.sum(2), x.square().sum(2), part.sum(2), largest.sum(2), entropy.sum(2)[..., None]], -1)
            self.sums[shape] = self.sums[shape] + new if shape in self.sums else new
        self.images += x.shape[2]

    def flatten(self, device: Any) -> Tensor:
        """The number of images and all sums as one vector, zeros if nothing was added: for adding up several processes."""
        parts = [
            self.sums[shape].flatten() if shape in self.sums else torch.zeros(
                len(numbers) * shape[0] * (4 * shape[1] + 1), dtype=torch.float64, device=device)
            for shape, numbers in self.shapes.items()
        ]
        return torch.cat([torch.tensor([self.images], dtype=torch.float64, device=device), *parts])

    def load_flat(self, values: Tensor) -> None:
        """Take what :meth:`flatten` gave."""
        self.images, start = int(values[0]), 1
        for (groups, experts), numbers in self.shapes.items():
            size = (len(numbers), groups, 4 * experts + 1)
            self.sums[groups, experts] = values[start:start + math.prod(size)].view(size)
            start += math.prod(size)

    def compute_statistics(self) -> list[dict[str, 'GroupStatistics']]:
        """For each adapter: group of gates -> its statistics."""
        found: list[dict[str, GroupStatistics]] = [{} for _ in self.adapters]
        for shape, numbers in self.shapes.items():
            means = (self.sums[shape] / self.images).cpu().numpy()
            for row, number in enumerate(numbers):
                for column, group in enumerate(self.adapters[number].groups):
                    found[number][group] = GroupStatistics.from_means(means[row, column], shape[1], self.images)
        return found


@dataclass(frozen=True)
class GroupStatistics:
    """What the gates of one group of one router do over some images.

    Attributes:
        mean_gate: (M,), mean of each gate.
        std: (M,), its standard deviation over the images.
        usage: (M,), mean share of each expert; the mean gate for softmax; sigmoid gates are divided by their sum first.
        largest: (M,), share of the images for which the expert has the largest gate; ties are split.
        entropy_of_mean: entropy of ``usage`` in nats: log M if all experts are used alike over the data.
        mean_entropy: mean over the images of the entropy of the shares in nats: 0 if each image takes one expert.
        variation: spread of the gates over the images relative to their mean, ``sqrt(sum std^2 / sum mean_gate^2)``; None
            for a single image.
    """
    mean_gate: np.ndarray
    std: np.ndarray
    usage: np.ndarray
    largest: np.ndarray
    entropy_of_mean: float
    mean_entropy: float
    variation: float | None

    @classmethod
    def from_means(cls, means: np.ndarray, experts: int, images: int) -> 'GroupStatistics':
        """From the means over some images of what :class:`GateSums` adds up."""
        gate, squares, usage, largest = means[:4 * experts].reshape(4, experts)
        std = np.sqrt(np.maximum(squares - gate**2, 0.))
        size = float(np.sqrt((gate**2).sum()))
        return cls(gate, std, usage, largest, float(compute_entropy(torch.from_numpy(usage))), float(means[-1]),
                   None if images == 1 else float(np.sqrt((std**2).sum())) / size if size else 0.)

    @property
    def num_experts(self) -> int:
        return len(self.usage)

    @property
    def dependence(self) -> float:
        """``entropy_of_mean - mean_entropy`` in nats, at least 0: what the choice of experts tells of the image."""
        return max(self.entropy_of_mean - self.mean_entropy, 0.)

    @property
    def dead_experts(self) -> list[int]:
        """Experts, counted from 1, that hardly any image uses; none if there is no choice."""
        if self.num_experts == 1:
            return []
        return (1 + np.flatnonzero((self.usage < DEAD_SHARE / self.num_experts) & (self.largest == 0))).tolist()

    @property
    def is_constant(self) -> bool:
        """Whether the gates do not depend on the input although there is a choice."""
        return self.num_experts > 1 and self.variation is not None and self.variation < FIXED_VARIATION

    def normalize(self, value: float) -> float | None:
        """An entropy as a share of log M, in [0, 1]; None for a single expert."""
        return value / math.log(self.num_experts) if self.num_experts > 1 else None

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        entropies = dict(entropy_of_mean=self.entropy_of_mean, mean_entropy=self.mean_entropy, dependence=self.dependence)
        return dict({name: getattr(self, name).tolist() for name in ('mean_gate', 'std', 'usage', 'largest')}, **entropies,
                    normalized={name: self.normalize(value) for name, value in entropies.items()}, variation=self.variation,
                    dead_experts=self.dead_experts, input_independent=self.is_constant)


Statistics = Sequence[Mapping[str, GroupStatistics]]  # for each adapter: group of gates -> what it does


def list_warnings(adapters: Sequence[RoutedAdapter], statistics: Statistics) -> list[str]:
    """Sentences about dead experts and about gates that do not depend on the input."""
    dead, fixed = find_dead_experts(adapters, statistics), find_constant_gates(adapters, statistics)
    found = [describe_dead_experts(dead, find_dead_everywhere(adapters, statistics))] if dead else []
    return found + ([describe_constant_gates(fixed, count_groups_with_choice(adapters))] if fixed else [])


def count_groups_with_choice(adapters: Sequence[RoutedAdapter]) -> int:
    """Count the groups of gates of routers with more than one expert."""
    return sum(len(adapter.groups) for adapter in adapters if adapter.num_experts > 1)


def find_dead_experts(adapters: Sequence[RoutedAdapter], statistics: Statistics) -> list[str]:
    """Find dead experts; their names are such as ``stage3/block02/after_token_mixer/down/expert1``, counted from 1."""
    return [
        f'{adapter.name}/{group}/expert{expert}' for adapter, groups in zip(adapters, statistics)
        for group, found in groups.items() for expert in found.dead_experts
    ]


def find_dead_everywhere(adapters: Sequence[RoutedAdapter], statistics: Statistics) -> list[str]:
    """Find experts that are dead in every adapter that shares them; their names are such as ``stage3/down/expert1``."""
    dead: dict[str, int] = {}
    sharers: dict[str, int] = {}
    for adapter, groups in zip(adapters, statistics):
        sharers[adapter.center] = sharers.get(adapter.center, 0) + 1
        for group, found in groups.items():
            for expert in found.dead_experts:
                name = f'{adapter.center}/{group}/expert{expert}'
                dead[name] = dead.get(name, 0) + 1
    return [name for name, count in dead.items() if count == sharers[name.rsplit('/', 2)[0]]]


def find_constant_gates(adapters: Sequence[RoutedAdapter], statistics: Statistics) -> list[str]:
    """Find gates that do not depend on the input; their names are such as ``stage3/block02/after_token_mixer/down``."""
    return [
        f'{adapter.name}/{group}' for adapter, groups in zip(adapters, statistics) for group, found in groups.items()
        if found.is_constant
    ]


def describe_dead_experts(names: Sequence[str], everywhere: Sequence[str]) -> str:
    """The sentence about dead experts.

    Args:
        names: from :func:`find_dead_experts`.
        everywhere: from :func:`find_dead_everywhere`.
    """
    return (f'Dead experts, used for less than {DEAD_SHARE:g}/M on average and with the largest gate for no image: '
            f'{len(names)} ({_join(names)}); ' +
            (f'in every adapter that shares them: {len(everywhere)} ({_join(everywhere)}), so fewer experts '
             '(experts_per_layer) would do there.' if everywhere else 'each is used by another adapter that shares it.'))


def describe_constant_gates(names: Sequence[str], total: int) -> str:
    """The sentence about gates that do not depend on the input.

    Args:
        names: from :func:`find_constant_gates`.
        total: from :func:`count_groups_with_choice`.
    """
    return (f'Gates that do not depend on the input (their spread over the images is below {FIXED_VARIATION:.0%} of their '
            f'mean): {len(names)} of {total} groups ({_join(names)}). Their weights are the same for every image.')


def _join(names: Sequence[str], most: int = 6) -> str:
    return ', '.join(names[:most]) + (', ...' if len(names) > most else '')
