"""Exponential moving averages of the trainable parameters; the frozen base has no average and no copy."""
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from mmparax.errors import ParameterError, check_int, check_number, check_options
from mmparax.registry import HOOKS
from mmparax.utils.modules import unwrap_model
from mmparax.utils.signatures import list_keywords
from mmparax.weights.claims import EMA


@HOOKS.register_module()
class EMAHook(Hook):
    """Averages the trainable parameters, evaluates with the averages and saves them as the model's weights.

    ``averaged = (1 - momentum) * averaged + momentum * parameter`` after every ``interval``-th iteration, as mmengine's
    ``ExponentialMovingAverage`` does; buffers are not averaged. A checkpoint holds the averages in ``state_dict`` and the
    parameters that training goes on with in ``ema_state_dict``.

    Args:
        momentum: weight of the newest parameters, in (0, 1).
        interval: iterations between two updates.
        begin_iter: iteration from which on the hook averages; until then the averages are the parameters.

    Raises:
        ParameterError: for a value out of range, or an unknown option.
    """
    priority = 'NORMAL'  # before CheckpointHook, which saves the result

    def __init__(self, momentum: float = 0.0002, interval: int = 1, begin_iter: int = 0, **options: Any):
        check_options(type(self).__name__, options, list_keywords(EMAHook))
        self.momentum = check_number('momentum', momentum)
        if not 0 < self.momentum < 1:
            raise ParameterError('momentum', momentum, 'it is the weight of the newest parameters, between 0 and 1')
        self.interval = check_int('interval', interval)
        self.begin_iter = check_int('begin_iter', begin_iter, minimum=0)
        self.steps = 0
        self.averages: dict[str, Tensor] = {}

    @staticmethod
    def _get_trainable(runner: Runner) -> dict[str, Tensor]:
        return {
            name: parameter.data for name, parameter in unwrap_model(runner.model).named_parameters() if parameter.requires_grad
        }

    def before_train(self, runner: Runner) -> None:
        # Base and checkpoint are in the model by now. A resumed run has its averages already.
        if not self.averages:
            self.averages = {name: value.clone() for name, value in self._get_trainable(runner).items()}
        length = round(self.interval / self.momentum)
        runner.logger.info(f'Moving averages of {len(self.averages)} parameters over about {length} iterations are evaluated '
                           'and saved as the weights of the model.')
        if length > runner.max_iters:
            runner.logger.warning(f'momentum={self.momentum:g} averages over about {length} iterations, and the run has '
                                  f'{runner.max_iters}: what is evaluated is hardly trained. Raise momentum.')

    @torch.no_grad()
    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None) -> None:
        values = self._get_trainable(runner)
        averages = [self.averages[name] for name in values]
        if self.steps == 0 or runner.iter + 1 < self.begin_iter:
            torch._foreach_copy_(averages, list(values.values()))
        elif self.steps % self.interval == 0:
            torch._foreach_lerp_(averages, list(values.values()), self.momentum)
        if runner.iter + 1 >= self.begin_iter:
            self.steps += 1

    def _swap(self, runner: Runner) -> None:
        for name, value in self._get_trainable(runner).items():
            average = self.averages[name]
            current = value.clone()
            value.copy_(average)
            average.copy_(current)

    def before_val_epoch(self, runner: Runner) -> None:
        if self.averages:  # else a run without training: the checkpoint's weights are the averages
            self._swap(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self.averages:
            self._swap(runner)

    before_test_epoch, after_test_epoch = before_val_epoch, after_val_epoch

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint['state_dict']
        checkpoint[EMA] = {f'module.{name}': weights[name] for name in self.averages}
        checkpoint[EMA]['steps'] = torch.tensor(self.steps)
        for name, average in self.averages.items():
            weights[name] = average.cpu().clone()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if not runner._resume:
            return
        saved, weights = checkpoint.get(EMA), checkpoint['state_dict']
        if saved is None:
            runner.logger.warning('The checkpoint has no moving averages: they start from its weights.')
            return
        self.steps = int(saved['steps'])
        for name, value in self._get_trainable(runner).items():
            # The other way round than in the file: training goes on with what it had.
            self.averages[name] = weights[name].to(value.device, value.dtype).clone()
            weights[name] = saved[f'module.{name}']
