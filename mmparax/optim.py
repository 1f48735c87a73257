"""An optimizer that holds what trains and nothing else."""
import logging
from collections import Counter
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Tuple

from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from mmparax.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor over the parameters that train.

    mmengine's own puts every parameter into the optimizer when there is no ``paramwise_cfg``, the frozen ones too, and
    otherwise makes a group of each parameter and logs one line for each that is frozen and two for each that trains.
    Learning rates, weight decay, ``custom_keys`` and ``bypass_duplicate`` are the same; parameters with the same settings
    form one group, which an optimizer updates together, and the log has one line.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper of a model, which may be wrapped for several processes."""
        model = model.module if hasattr(model, 'module') else model
        with frozen_left_out(model), without_lines('paramwise_options'):
            wrapper = super().__call__(model)
        counts = Counter((group['lr'], group.get('weight_decay', 0.)) for group in wrapper.optimizer.param_groups
                         for _ in group['params'])
        print_log(f'{type(wrapper.optimizer).__name__} over {sum(counts.values())} tensors that train: ' + ', '.join(
            f'{count} with lr={rate:g} weight_decay={decay:g}' for (rate, decay), count in sorted(counts.items())) + '.',
            logger='current')
        return wrapper

    def add_params(self, params: List[Dict[str, Any]], module: nn.Module, prefix: str = '', **kwargs: Any) -> None:
        """Append the groups of a module to ``params``; those of a whole model with equal settings are merged."""
        if prefix:
            return super().add_params(params, module, prefix, **kwargs)
        groups: List[Dict[str, Any]] = []
        super().add_params(groups, module, prefix, **kwargs)
        parameters = [parameter for group in groups for parameter in group['params']]
        if len(set(parameters)) < len(parameters):  # the optimizer refuses a parameter in two groups, in one it only warns
            params.extend(groups)
            return
        merged: List[Tuple[Dict[str, Any], Dict[str, Any]]] = []
        for group in groups:
            settings = {key: value for key, value in group.items() if key != 'params'}
            same = next((known for of_known, known in merged if of_known == settings), None)
            if same is None:
                merged.append((settings, dict(group)))
            else:
                same['params'] = [*same['params'], *group['params']]
        params.extend(group for _, group in merged)


@contextmanager
def frozen_left_out(model: nn.Module) -> Iterator[None]:
    """Hide the frozen parameters of a model from whoever lists its parameters."""
    complete = [(module, module._parameters) for module in model.modules()]
    try:
        for module, parameters in complete:
            module._parameters = {name: parameter for name, parameter in parameters.items()
                                  if parameter is not None and parameter.requires_grad}
        yield
    finally:
        for module, parameters in complete:
            module._parameters = parameters


@contextmanager
def without_lines(start: str) -> Iterator[None]:
    """Keep lines that begin with ``start`` out of the log."""
    logger = MMLogger.get_current_instance()

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(start)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
