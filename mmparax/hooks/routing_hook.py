"""Records over training which experts the routers of AdaRoute use."""
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mmparax.checks.gates import (
    GateSums,
    GroupStatistics,
    RoutedAdapter,
    attach_readers,
    count_groups_with_choice,
    describe_constant_gates,
    describe_dead_experts,
    find_constant_gates,
    find_dead_everywhere,
    find_dead_experts,
    find_routed_adapters,
)
from mmparax.errors import InputError, check_choice, check_int, check_options
from mmparax.registry import HOOKS
from mmparax.utils.modules import unwrap_model
from mmparax.utils.signatures import list_keywords

SETTLED = 0.1  # share of the run before which nothing is warned of: routers start with nearly equal gates


@HOOKS.register_module()
class RoutingHook(Hook):
    """Writes usage and entropy of the experts over the training images to the visualizer (TensorBoard and others).

    For every ``interval`` iterations, over their images on all processes: ``routing/STAGE/GROUP/`` with ``entropy`` (mean
    over images and adapters, as a share of log M), ``dependence`` (entropy of the mean usage minus ``entropy``: what the
    choice tells of the image), ``largest_usage`` (of an expert by an adapter) and ``dead_experts`` (their number).
    After the first tenth of the run it warns once of each dead expert and of each group of gates that does not depend on the
    input. Routers with one expert have no choice and are left out. Each router counts once an iteration, so activation
    checkpointing changes nothing, and evaluation does not count.

    Args:
        interval: iterations between two records.
        per_adapter: write the same for each adapter, and the usage of each expert:
            ``routing/STAGE/BLOCK/SITE/GROUP/usage/expert1``. These are many.

    Raises:
        ParameterError: for a wrong argument.
        InputError: before training: for a model without AdaRoute, or that is compiled.
    """
    priority = 'NORMAL'

    def __init__(self, interval: int = 50, per_adapter: bool = False, **options: Any):
        check_options(type(self).__name__, options, list_keywords(RoutingHook))
        self.interval = check_int('interval', interval)
        self.per_adapter = check_choice('per_adapter', per_adapter, (True, False))
        self._handles: list[RemovableHandle] = []
        self._warned: set[str] = set()
        self._gates: dict[int, Tensor] = {}
        self._reading = False

    def before_train(self, runner: Runner) -> None:
        if runner.cfg.get('compile'):
            raise InputError("mmparax.RoutingHook reads the gates in Python, which a compiled model cannot do: remove "
                             "'compile' from the config, or this hook from custom_hooks.")
        self._remove()
        adapters = [adapter for adapter in find_routed_adapters(unwrap_model(runner.model)) if adapter.num_experts > 1]
        if not adapters:
            runner.logger.info('Every router has a single expert (M = 1): there is no choice to record.')
            return
        self._sums = GateSums(adapters)
        self._handles = attach_readers(adapters, self._take)

    def _take(self, number: int, gates: Tensor) -> None:
        if self._reading and number not in self._gates:  # not again when activations are recomputed
            self._gates[number] = gates

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._gates.clear()
        self._reading = bool(self._handles)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None) -> None:
        self._reading = False
        if not self._handles:
            return
        if len(self._gates) == len(self._sums.adapters):  # else a step that does without the backbone
            with torch.no_grad():
                self._sums.add(self._gates)
        self._gates.clear()
        if self.every_n_train_iters(runner, self.interval):
            self._record(runner, runner.iter + 1)

    def after_train(self, runner: Runner) -> None:
        if self._handles:
            self._record(runner, runner.iter)
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _record(self, runner: Runner, step: int) -> None:
        """Write what was added since the last time and start anew."""
        values = self._sums.flatten(next(self._sums.adapters[0].router.parameters()).device)
        all_reduce(values)
        self._sums.load_flat(values.cpu())
        if self._sums.images and is_main_process():
            statistics = self._sums.compute_statistics()
            runner.visualizer.add_scalars(self._make_scalars(statistics), step=step)
            if step >= SETTLED * runner.max_iters:
                self._warn(runner, statistics)
        self._sums.clear()

    def _make_scalars(self, statistics: list[dict[str, GroupStatistics]]) -> dict[str, float]:
        stages: dict[str, list[GroupStatistics]] = {}
        scalars: dict[str, float] = {}
        for adapter, groups in zip(self._sums.adapters, statistics):
            for group, found in groups.items():
                stages.setdefault(f'routing/{_name_stage(adapter)}/{group}', []).append(found)
                if self.per_adapter:
                    place = f'routing/{adapter.name}/{group}'
                    scalars.update(_summarize(place, [found]))
                    scalars.update({f'{place}/usage/expert{expert}': float(usage) for expert, usage in enumerate(found.usage, 1)})
        for place, several in stages.items():
            scalars.update(_summarize(place, several))
        return scalars

    def _warn(self, runner: Runner, statistics: list[dict[str, GroupStatistics]]) -> None:
        adapters = self._sums.adapters
        dead = self._select_new(find_dead_experts(adapters, statistics))
        if dead:
            runner.logger.warning(describe_dead_experts(dead, find_dead_everywhere(adapters, statistics)))
        fixed = self._select_new(find_constant_gates(adapters, statistics))
        if fixed:
            runner.logger.warning(describe_constant_gates(fixed, count_groups_with_choice(adapters)))

    def _select_new(self, names: list[str]) -> list[str]:
        """Names that were not warned of yet; from now on they were."""
        fresh = [name for name in names if name not in self._warned]
        self._warned.update(fresh)
        return fresh


def _name_stage(adapter: RoutedAdapter) -> str:
    return adapter.name.rpartition('/block')[0]


def _summarize(place: str, several: list[GroupStatistics]) -> dict[str, float]:

    def mean(value: Callable[[GroupStatistics], float]) -> float:
        return float(np.mean([found.normalize(value(found)) for found in several]))

    return {
        f'{place}/entropy': mean(lambda found: found.mean_entropy), f'{place}/dependence': mean(lambda found: found.dependence),
        f'{place}/largest_usage': float(max(found.usage.max() for found in several)),
        f'{place}/dead_experts': float(sum(len(found.dead_experts) for found in several))
    }
