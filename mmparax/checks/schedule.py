"""Whether batch size and learning rate of a run are those of its recipe."""
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.dist import get_world_size

from mmparax.checks.optimizer import list_optim_wrappers


@dataclass
class Schedule:
    """Batch size and learning rate of a run.

    Attributes:
        num_processes: number of processes.
        batch_size: images of one process in one iteration.
        accumulation: iterations whose gradients one step sums.
        recipe_batch_size: the effective batch size that the learning rate of the config is for, or None if it does not say.
        scaled: whether the learning rate is scaled from that batch size to this one.
        learning_rates: those after warm-up, each once, the highest first.
    """
    num_processes: int
    batch_size: int
    accumulation: int
    recipe_batch_size: int | None
    scaled: bool
    learning_rates: list[float]

    @property
    def effective_batch_size(self) -> int:
        """Images of one step."""
        return self.num_processes * self.batch_size * self.accumulation

    def describe(self) -> str:
        """One line: processes x batch x accumulation, the batch size of the recipe, the learning rates."""
        text = (f'Effective batch size {self.effective_batch_size} = {self.num_processes} process(es) x {self.batch_size} images '
                f'x {self.accumulation} accumulated step(s)')
        if self.recipe_batch_size:
            text += (f'; the recipe is for {self.recipe_batch_size}, the learning rate was '
                     f'{"" if self.scaled else "not "}scaled')
        return text + f'. Learning rate after warm-up: {", ".join(f"{rate:g}" for rate in self.learning_rates)}.'

    def explain_mismatch(self) -> str | None:
        """What differs from the recipe, with the remedy, or None."""
        if not self.recipe_batch_size:
            return None
        if self.scaled and self.accumulation > 1:
            return (f'auto_scale_lr counts {self.num_processes * self.batch_size} images and not the {self.accumulation} '
                    f'accumulated steps: for a batch of {self.effective_batch_size} the learning rate should be '
                    f'{self.accumulation} times as high. Set it yourself and leave auto_scale_lr off.')
        if not self.scaled and self.effective_batch_size != self.recipe_batch_size:
            return (f'the effective batch size is {self.effective_batch_size}, the learning rate is for '
                    f'{self.recipe_batch_size}: use auto_scale_lr.enable=True, another batch size, or '
                    'optim_wrapper.accumulative_counts.')
        return None


def read_schedule(cfg: Mapping[str, Any], batch_size: int, wrapper: Any, num_processes: int | None = None) -> Schedule:
    """Read the schedule of a run from its config and its optimizer wrapper.

    Args:
        cfg: of the run.
        batch_size: images of one process in one iteration.
        wrapper: an optimizer wrapper, or a dict of several.
        num_processes: by default those that there are.
    """
    scale = cfg.get('auto_scale_lr') or {}
    parts = list_optim_wrappers(wrapper)
    rates = {group.get('initial_lr', group['lr']) for part in parts for group in part.param_groups}
    return Schedule(num_processes or get_world_size(), batch_size, max(part._accumulative_counts for part in parts),
                    scale.get('base_batch_size'), bool(scale.get('enable')), sorted(rates, reverse=True))
