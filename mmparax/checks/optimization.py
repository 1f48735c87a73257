"""Whether optimizer and schedulers of a config can be built and can take a step; they are tried on one parameter."""
import copy
import inspect
import traceback
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS
from torch import nn

from mmparax.checks.named import check_call, check_named
from mmparax.errors import ParameterError, check_choice

RATE = 0.01  # of a trial; the config's, if it has one
EPOCH = 10  # iterations of an epoch of a trial
CLIPPING = {'norm': nn.utils.clip_grad_norm_, 'value': nn.utils.clip_grad_value_}
LIMITS = {'norm': 'max_norm', 'value': 'clip_value'}
IN_WRAPPER = ('constructor', 'paramwise_cfg')  # what mmengine takes out before it builds the wrapper


def check_optim_wrapper(cfg: Mapping[str, Any]) -> None:
    """Check optimizer, wrapper, constructor, clipping and accumulation.

    Args:
        cfg: of a run.

    Raises:
        ParameterError: naming the place in the config.
    """
    config = cfg.get('optim_wrapper')
    if not isinstance(config, Mapping):
        return
    constructor = dict(type=config.get('constructor', 'DefaultOptimWrapperConstructor'))
    check_named(OPTIM_WRAPPER_CONSTRUCTORS, constructor, 'optim_wrapper.constructor', cfg, ('optim_wrapper_cfg', 'paramwise_cfg'))
    if 'optimizer' not in config:
        if 'constructor' not in config:
            raise ParameterError('optim_wrapper', dict(config), 'it has no optimizer', 'Set optim_wrapper.optimizer.')
        return  # of several models, which their constructor knows
    check_named(OPTIM_WRAPPERS, config, 'optim_wrapper', cfg, ('optimizer', ), 'OptimWrapper', IN_WRAPPER)
    optimizer = config['optimizer']
    cls = check_named(OPTIMIZERS, optimizer, 'optim_wrapper.optimizer', cfg, ('params', ))
    if optimizer.get('lr') == 0:
        raise ParameterError('optim_wrapper.optimizer.lr', optimizer['lr'], 'with it nothing is learned',
                             'Use a rate above 0; docs/learning_rates.md proposes some.')
    if cls.__module__.startswith('torch.'):
        options = {name: value for name, value in optimizer.items() if name not in ('type', '_scope_')}
        _try('optim_wrapper.optimizer', optimizer, lambda: cls([nn.Parameter(torch.zeros(1))], **options))
    _check_clipping(config.get('clip_grad'))
    counts, length = config.get('accumulative_counts', 1), (cfg.get('train_cfg') or {}).get('max_iters')
    if isinstance(counts, int) and isinstance(length, int) and counts > max(length, 1):
        raise ParameterError('optim_wrapper.accumulative_counts', counts,
                             f'a step would sum the gradients of {counts} iterations, '
                             f'and the run has {length}', f'Use at most {length}, or a longer run.')


def _check_clipping(config: Any) -> None:
    place = 'optim_wrapper.clip_grad'
    if config is None:
        return
    if not isinstance(config, Mapping) or not config:
        raise ParameterError(place, config, 'it must be a dict such as dict(max_norm=1.0)')
    kind = check_choice(f'{place}.type', config.get('type', 'norm'), list(CLIPPING))
    check_call(CLIPPING[kind], {name: value for name, value in config.items() if name != 'type'}, place, ('parameters', ))
    limit = config[LIMITS[kind]]
    if not isinstance(limit, (int, float)) or isinstance(limit, bool) or not limit > 0:
        raise ParameterError(f'{place}.{LIMITS[kind]}', limit, 'it must be a number above 0',
                             'Leave clip_grad out to clip nothing.')


# ---- schedulers ----


def check_schedulers(cfg: Mapping[str, Any]) -> None:
    """Build every scheduler on one parameter, and step at the beginning, in the middle and at the end of the run.

    Args:
        cfg: of a run.

    Raises:
        ParameterError: naming the place in the config.
    """
    loop = cfg.get('train_cfg') or {}
    for place, config in list_schedulers(cfg.get('param_scheduler')):
        given = ('optimizer', 'epoch_length', 'param_name')
        cls = check_named(PARAM_SCHEDULERS, config, place, cfg, given, dropped=('convert_to_iter_based', ))
        by_epoch = config.get('by_epoch', True)
        begin, end = config.get('begin', 0), config.get('end')
        for name, value in (('begin', begin), ('end', end)):
            if value is not None and (not isinstance(value, Real) or isinstance(value, bool) or value < 0):
                raise ParameterError(f'{place}.{name}', value, 'it must be a number of at least 0')
        if end is not None and end <= begin:
            raise ParameterError(f'{place}.end', end, f'it must be above {place}.begin={begin}')
        if _is_plateau(cls):
            if not by_epoch:
                raise ParameterError(f'{place}.by_epoch', by_epoch,
                                     f'{cls.__name__} acts after a validation, and mmengine knows it '
                                     'by epochs alone', f'Leave {place}.by_epoch out.')
        length = loop.get('max_epochs' if by_epoch else 'max_iters')
        if length is None and by_epoch:
            length = 1  # which mmengine gives to a run by iterations
        if end is None and isinstance(length, int) and length <= begin:
            raise ParameterError(f'{place}.begin', begin, f'the run ends at {length}, so that the scheduler never acts',
                                 f'Set it to less than {length}, or leave the scheduler out.')
        if isinstance(config.get('min_value', 0.), Real):  # one for each group of the model's parameters
            _try(place, config, lambda c=config, n=length: _run(c, cfg, n))


def list_schedulers(config: Any, place: str = 'param_scheduler') -> Iterator[tuple[str, Any]]:
    """Yield (place, config) of every scheduler; of several optimizers too."""
    if isinstance(config, Mapping):
        if 'type' in config or not all(isinstance(part, (Mapping, list, tuple)) for part in config.values()):
            yield place, config
        else:
            for name, part in config.items():
                yield from list_schedulers(part, f'{place}.{name}')
    elif isinstance(config, Sequence) and not isinstance(config, str):
        for number, part in enumerate(config):
            if not hasattr(part, 'step'):  # an object, of a config in Python
                yield f'{place}.{number}', part


def _is_plateau(cls: Any) -> bool:
    return inspect.isclass(cls) and any(each.__name__ == 'ReduceOnPlateauParamScheduler' for each in cls.__mro__)


def _run(config: Mapping[str, Any], cfg: Mapping[str, Any], length: int | None) -> None:
    """Build a scheduler and step it; ``length`` is that of the run in the scheduler's unit, or None."""
    rate = ((cfg.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr')
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate if isinstance(rate, Real) else RATE, momentum=0.9)
    optimizer.param_groups[0].setdefault(config.get('param_name', 'lr'), RATE)
    options = copy.deepcopy(dict(config))
    options['_scope_'] = options.get('_scope_') or cfg.get('default_scope')
    if length is not None:
        options.setdefault('end', length)
    scheduler = PARAM_SCHEDULERS.build(options, default_args=dict(optimizer=OptimWrapper(optimizer), epoch_length=EPOCH))
    if _is_plateau(type(scheduler)):
        return  # it needs a metric
    begin = scheduler.begin
    last = min(scheduler.end, length or scheduler.end)
    moments = [begin, begin + 1, (begin + last) // 2, *([last - 1, last] if length is not None else [])]
    if options.get('convert_to_iter_based'):
        moments = [begin, begin + 1]
    for moment in moments:
        scheduler._global_step, scheduler.last_step = moment - 1, max(moment - 1 - begin, -1)
        optimizer.step()
        scheduler.step()


def _try(place: str, config: Mapping[str, Any], build: Any) -> None:
    """Build something; its refusal becomes a sentence with the place in the config."""
    try:
        build()
    except (TypeError, ValueError, ArithmeticError, AssertionError, KeyError, IndexError) as error:
        reason = str(error).strip().rstrip('.') or str(traceback.extract_tb(error.__traceback__)[-1].line)
        raise ParameterError(place, dict(config), f'{config.get("type")} cannot run with these options ({type(error).__name__}: '
                             f'{reason})', 'Change the option that the reason in brackets is about.') from error
