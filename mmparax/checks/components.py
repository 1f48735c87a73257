"""Whether the parts of a config that a run builds are known to their registries, and can work together; builds no model."""
import inspect
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.hooks import EMAHook as MMEngineEMAHook
from mmengine.registry import (
    DATA_SAMPLERS,
    EVALUATOR,
    FUNCTIONS,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODELS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
)
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop
from mmengine.runner.priority import Priority
from torch.utils.data import DataLoader

from mmparax.checks.named import check_call, check_model_types, check_named, find_named
from mmparax.checks.optimization import check_optim_wrapper, check_schedulers
from mmparax.config.query import find_class, find_datasets
from mmparax.errors import ParameterError, check_choice, check_seed
from mmparax.utils.names import join_name

LEVELS = ('CRITICAL', 'FATAL', 'ERROR', 'WARNING', 'WARN', 'INFO', 'DEBUG', 'NOTSET')  # logging's
STAGES = ('train', 'val', 'test')
ALONE = ('PEFTHook', 'CheckpointHook', 'EMAHook')  # of mmparax: two of them would do everything twice
ENDLESS_SAMPLERS = ('InfiniteSampler', 'MultiSourceSampler', 'GroupMultiSourceSampler')
# What mmengine takes out of a dataloader's config, or adds to it, beside the options of PyTorch's DataLoader.
OF_LOADERS = ('num_batch_per_epoch', 'disable_subprocess_warning', '_delete_', '_scope_', 'type')
# Metrics that a metric's class knows: it says so when it is built, after the model, or at the first validation.
KNOWN_METRICS = {
    ('CocoMetric', 'metric'): ('bbox', 'segm', 'proposal', 'proposal_fast'),
    ('VOCMetric', 'metric'): ('recall', 'mAP'),
    ('IoUMetric', 'iou_metrics'): ('mIoU', 'mDice', 'mFscore'),
    ('SingleLabelMetric', 'items'): ('precision', 'recall', 'f1-score', 'support'),
    ('MultiLabelMetric', 'items'): ('precision', 'recall', 'f1-score', 'support'),
}


def check_components(cfg: Mapping[str, Any]) -> list[str]:
    """Check hooks, loops, samplers, optimizer, schedulers, metrics, visualizer and the types of model and transforms.

    Args:
        cfg: of a run.

    Returns:
        Sentences about what is allowed but does nothing.

    Raises:
        ParameterError: naming the first part that a run could not build, or with which it would not end or learn nothing.
    """
    _check_environment(cfg)
    _check_hooks(cfg)
    notes = _check_loops(cfg)
    for stage in STAGES:
        _check_loader(cfg, stage)
    check_optim_wrapper(cfg)
    check_schedulers(cfg)
    for stage in STAGES[1:]:
        _check_evaluator(cfg, f'{stage}_evaluator')
    _check_visualizer(cfg)
    if cfg.get('model') is not None:
        check_model_types(cfg['model'], cfg)
    return notes


def _check_environment(cfg: Mapping[str, Any]) -> None:
    level = cfg.get('log_level')
    if isinstance(level, str):
        check_choice('log_level', level, LEVELS)
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is not None:
        check_seed('randomness.seed', randomness['seed'])
    method = ((cfg.get('env_cfg') or {}).get('mp_cfg') or {}).get('mp_start_method')
    if method is not None:
        check_choice('env_cfg.mp_cfg.mp_start_method', method, multiprocessing.get_all_start_methods())
    if cfg.get('log_processor') is not None:
        check_named(LOG_PROCESSORS, cfg['log_processor'], 'log_processor', cfg, default='LogProcessor')


# ---- hooks ----


def _check_hooks(cfg: Mapping[str, Any]) -> None:
    seen: dict[str, str] = {}
    for place, hook in _list_hooks(cfg):
        if not isinstance(hook, Mapping) and hasattr(hook, 'before_run'):
            continue  # an object, of a config in Python
        cls = check_named(HOOKS, hook, place, cfg, dropped=('priority', ))
        priority = hook.get('priority')
        if isinstance(priority, str):
            check_choice(f'{place}.priority', priority.upper(), [each.name for each in Priority])
        elif priority is not None and not (isinstance(priority, int) and 0 <= priority <= 100):
            raise ParameterError(f'{place}.priority', priority,
                                 'it must be a name such as \'NORMAL\', or an integer from 0 to 100')
        if inspect.isclass(cls) and issubclass(cls, MMEngineEMAHook):
            own = inspect.signature(cls.__init__).parameters
            average = dict(type=hook.get('ema_type', 'ExponentialMovingAverage'), _scope_=hook.get('_scope_'))
            options = {name: value for name, value in hook.items() if name not in (*own, 'type', '_scope_', 'priority')}
            check_named(MODELS, {**options, **average}, place, cfg, given=('model', ))
        if not getattr(cls, '__module__', '').startswith('mmparax.'):
            continue
        cls(**{option: value for option, value in hook.items() if option not in ('type', 'priority', '_scope_')})
        name = cls.__name__
        if name in ALONE:
            if name in seen:
                raise ParameterError(
                    place, dict(hook), f'{seen[name]} is a {name} already, and a run has one',
                    f'Remove one of them; a list that is inherited is replaced as a whole, so that {name} is '
                    'named once in yours.')
            seen[name] = place


def _list_hooks(cfg: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if hook is not None:  # which switches one off
            yield f'default_hooks.{name}', hook
    for number, hook in enumerate(cfg.get('custom_hooks') or []):
        yield f'custom_hooks.{number}', hook


# ---- loops and dataloaders ----


def _check_loops(cfg: Mapping[str, Any]) -> list[str]:
    loop = cfg.get('train_cfg')
    notes: list[str] = []
    for name, default in (('val_cfg', ValLoop), ('test_cfg', TestLoop)):
        if cfg.get(name) is not None:
            check_named(LOOPS, cfg[name], name, cfg, ('runner', 'dataloader', 'evaluator'), default.__name__)
    if not isinstance(loop, Mapping):
        return notes
    if 'type' in loop and 'by_epoch' in loop:
        raise ParameterError('train_cfg.by_epoch', loop['by_epoch'], f'train_cfg.type={loop["type"]!r} says already what is '
                             'counted', 'Leave one of them out.')
    kind = _get_loop_class(cfg)
    check_named(LOOPS, loop, 'train_cfg', cfg, ('runner', 'dataloader'), kind.__name__ if kind else None, ('by_epoch', ),
                'An inherited entry goes with train_cfg=dict(_delete_=True, ...).')
    unit = 'max_epochs' if 'max_epochs' in loop else 'max_iters'
    length = loop.get(unit)
    if not isinstance(length, int):
        return notes
    begin = loop.get('val_begin', 1)
    if cfg.get('val_cfg') is not None and isinstance(begin, int) and begin > length:
        notes.append(f'train_cfg.val_begin={begin} is beyond the run ({unit}={length}): it is never validated.')
    saver = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    interval, by_epoch = saver.get('interval', 1), saver.get('by_epoch', True)
    if by_epoch == (unit == 'max_epochs') and not saver.get('save_last', True) and isinstance(interval,
                                                                                              int) and interval > length:
        notes.append(f'default_hooks.checkpoint.interval={interval} is beyond the run ({unit}={length}), and save_last=False: '
                     'no checkpoint is saved.')
    return notes


def _get_loop_class(cfg: Mapping[str, Any]) -> Any:
    """The class of the training loop, or None if it is unknown."""
    loop = cfg.get('train_cfg') or {}
    if loop.get('type') is None:
        return EpochBasedTrainLoop if loop.get('by_epoch') else IterBasedTrainLoop
    return loop['type'] if callable(loop['type']) else find_class(LOOPS, dict(loop, type=str(loop['type'])), cfg)


def _check_loader(cfg: Mapping[str, Any], stage: str) -> None:
    place = f'{stage}_dataloader'
    loader = cfg.get(place)
    if not isinstance(loader, Mapping):
        return
    options = {name: value for name, value in loader.items() if name not in OF_LOADERS}
    check_call(DataLoader, options, place)
    for name, given in (('sampler', ('dataset', 'seed')), ('batch_sampler', ('sampler', 'batch_size'))):
        part = loader.get(name)
        if not isinstance(part, Mapping):
            continue
        cls = check_named(DATA_SAMPLERS, part, f'{place}.{name}', cfg, given)
        endless = [each.__name__ for each in getattr(cls, '__mro__', ()) if each.__name__ in ENDLESS_SAMPLERS]
        kind = _get_loop_class(cfg)
        ends = stage != 'train' or inspect.isclass(kind) and issubclass(kind, EpochBasedTrainLoop)
        if endless and ends:
            what = 'an epoch' if stage == 'train' else 'the validation' if stage == 'val' else 'the test'
            raise ParameterError(
                f'{place}.{name}.type', part['type'], f'it gives images without an end, and {what} would never end',
                f"Use {place}.{name}=dict(_delete_=True, type='DefaultSampler', shuffle={stage == 'train'})" +
                (", or train_cfg.type='IterBasedTrainLoop' with max_iters." if stage == 'train' else '.'))
    collate = loader.get('collate_fn')
    if isinstance(collate, Mapping):
        check_named(FUNCTIONS, collate, f'{place}.collate_fn', cfg, ('data_batch', 'batch', 'samples', 'data'))
    elif collate is not None and not callable(collate):
        raise ParameterError(f'{place}.collate_fn', collate, 'it must be a dict with type, or a function')
    for dataset in find_datasets(loader):
        _check_transforms(dataset.get('pipeline'), cfg, f'{place}.dataset.pipeline', dataset.get('_scope_'))


def _check_transforms(pipeline: Any, cfg: Mapping[str, Any], place: str, scope: str | None) -> None:
    """Check the types of the transforms of a pipeline, those inside others too."""
    if isinstance(pipeline, Mapping):
        scope = pipeline.get('_scope_') or scope
        if isinstance(pipeline.get('type'), str):
            cls = find_named(TRANSFORMS, dict(pipeline, _scope_=scope), place, cfg)
            if not cls.__module__.startswith(
                ('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmengine')) or cls.__name__.startswith('Albu'):
                return  # what it holds is of its own kind
        entries: Any = pipeline.items()
    else:
        entries = enumerate(pipeline) if isinstance(pipeline, (list, tuple)) else ()
    for name, entry in entries:
        if isinstance(entry, (Mapping, list, tuple)):
            _check_transforms(entry, cfg, join_name(place, str(name)), scope)


# ---- metrics and pictures ----


def _check_evaluator(cfg: Mapping[str, Any], place: str) -> None:
    config = cfg.get(place)
    if isinstance(config, Mapping) and 'metrics' in config:
        check_named(EVALUATOR, config, place, cfg, default='Evaluator')
        config, place = config['metrics'], f'{place}.metrics'
    several = isinstance(config, Sequence) and not isinstance(config, str)
    for number, metric in enumerate(config if several else [] if config is None else [config]):
        if not isinstance(metric, Mapping) and hasattr(metric, 'compute_metrics'):
            continue  # an object, of a config in Python
        own = f'{place}.{number}' if several else place
        cls = check_named(METRICS, metric, own, cfg)
        for (owner, option), known in KNOWN_METRICS.items():
            if getattr(cls, '__name__', '') == owner and metric.get(option) is not None:
                for name in [metric[option]] if isinstance(metric[option], str) else metric[option]:
                    check_choice(f'{own}.{option}', name, known)


def _check_visualizer(cfg: Mapping[str, Any]) -> None:
    config = cfg.get('visualizer')
    if not isinstance(config, Mapping):
        return
    check_named(VISUALIZERS, config, 'visualizer', cfg, ('name', 'save_dir'), 'Visualizer')
    backends = config.get('vis_backends') or []
    for number, backend in enumerate([backends] if isinstance(backends, Mapping) else backends):
        if isinstance(backend, Mapping):
            check_named(VISBACKENDS, backend, f'visualizer.vis_backends.{number}', cfg, ('save_dir', ))
