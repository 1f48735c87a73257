"""An optimizer that holds the trainable parameters and nothing else."""
import inspect
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from mmparax.registry import OPTIM_WRAPPER_CONSTRUCTORS

# What mmengine logs for each parameter: its settings, or that it is frozen.
PARAMETER_LINES = ('paramwise_options', 'is skipped since its requires_grad=')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's default constructor over the trainable parameters.

    mmengine's own puts every parameter into the optimizer when there is no ``paramwise_cfg``, the frozen ones, too, and
    otherwise makes a group of each parameter and logs one line for each that is frozen and two for each that is trainable.
    Learning rates, weight decay, ``custom_keys`` and ``bypass_duplicate`` are the same; parameters with the same settings
    form one group, which an optimizer updates together, and the log has one line.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer wrapper of a model, which may be wrapped for several processes."""
        model = model.module if hasattr(model, 'module') else model
        groups: list[Any] = []
        if self.paramwise_cfg:
            with silence(PARAMETER_LINES):
                self.add_params(groups, model)
        else:
            groups = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = OPTIMIZERS.build({**self.optimizer_cfg, self._parameters_argument(): groups})
        wrapper = OPTIM_WRAPPERS.build({'type': 'OptimWrapper', **self.optim_wrapper_cfg}, default_args=dict(optimizer=optimizer))
        counts = Counter(
            (group['lr'], group.get('weight_decay', 0.)) for group in wrapper.optimizer.param_groups for _ in group['params'])
        print_log(
            f'{type(wrapper.optimizer).__name__} over {sum(counts.values())} trainable tensors: '
            + ', '.join(f'{count} with lr={rate:g} weight_decay={decay:g}'
                        for (rate, decay), count in sorted(counts.items())) + '.', logger='current')
        return wrapper

    def _parameters_argument(self) -> str:
        """The first argument of the optimizer: ``params``, but some call it otherwise."""
        cls = self.optimizer_cfg['type']
        with OPTIMIZERS.switch_scope_and_registry(None) as registry:
            return next(iter(inspect.signature(registry.get(cls) if isinstance(cls, str) else cls).parameters))

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', **kwargs: Any) -> None:
        """Append the groups of a module to ``params``; those of a whole model with equal settings are merged."""
        if prefix:
            return super().add_params(params, module, prefix, **kwargs)
        groups: list[dict[str, Any]] = []
        super().add_params(groups, module, prefix, **kwargs)
        # Some versions of mmengine give groups of frozen parameters, too.
        groups = [group for group in groups if group['params'][0].requires_grad]
        parameters = [parameter for group in groups for parameter in group['params']]
        if len(set(parameters)) < len(parameters):  # the optimizer refuses a parameter in two groups, in one it only warns
            params.extend(groups)
            return
        merged: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for group in groups:
            settings = {key: value for key, value in group.items() if key != 'params'}
            same = next((known for of_known, known in merged if of_known == settings), None)
            if same is None:
                merged.append((settings, dict(group)))
            else:
                same['params'] = [*same['params'], *group['params']]
        params.extend(group for _, group in merged)


@contextmanager
def silence(parts: tuple[str, ...]) -> Iterator[None]:
    """Keep lines with any of ``parts`` in them out of the log."""
    logger = MMLogger.get_current_instance()

    def keep(record: logging.LogRecord) -> bool:
        return not any(part in record.getMessage() for part in parts)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
