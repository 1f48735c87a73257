"""Whether the parts of a config are of the types that a run needs; builds nothing.

A value of the command line is a number, a word or a list of them, and merging puts it wherever it is told to: a word may end up
where a dict must be, and what stumbles over it is a part of a toolbox that does not know where it came from.
"""
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from mmengine.config import Config

from mmparax.errors import InputError, ParameterError

OWN_FILE = 'Write it in a config file, or change single entries of it by dotted names (param_scheduler.0.end=100).'
# The parts of a loop: all of them, or none.
LOOPS = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}
LENGTHS = ('max_iters', 'max_epochs')


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _is_positive(value: Any) -> bool:
    return _is_integer(value) and value >= 1


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _is_objects(value: Any) -> bool:
    """A dict, an object that mmengine takes in its place, or several of them."""
    if isinstance(value, (str, bytes, bool, Real)):
        return False
    return not isinstance(value, Sequence) or all(map(_is_objects, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and _is_objects(value)


A_DICT = 'it must be a dict'
# (places, what is allowed there, how that is said); None is allowed everywhere.
RULES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (('model', 'optim_wrapper', 'default_hooks', 'auto_scale_lr', 'env_cfg', 'randomness', 'data_preprocessor'), _is_objects,
     A_DICT),
    (('model.backbone', 'optim_wrapper.optimizer', 'optim_wrapper.paramwise_cfg'), _is_objects, A_DICT),
    (('default_hooks.*', 'train_cfg', 'val_cfg', 'test_cfg', 'visualizer', 'log_processor'), _is_objects, A_DICT),
    (('*_dataloader', '*_dataloader.dataset', '*_dataloader.sampler', '*_evaluator', 'param_scheduler'), _is_objects,
     'it must be a dict or a list of dicts'),
    (('custom_hooks', ), _is_list, 'it must be a list of dicts'),
    (('*_dataloader.batch_size', 'optim_wrapper.accumulative_counts', 'train_cfg.val_interval'), _is_positive,
     'it must be an integer of at least 1'),
    (('*_dataloader.num_workers', 'train_cfg.max_iters', 'train_cfg.max_epochs'), _is_whole, 'it must be an integer'),
    (('optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay'), _is_rate, 'it must be a number of at least 0'),
    (('load_from', 'work_dir', 'launcher', 'default_scope'), _is_text, 'it must be a text'),
)


def _walk(value: Any, depth: int, path: str = '') -> Iterator[tuple[str, Any]]:
    """Yield (place, value) of what lies at most ``depth`` names deep."""
    if path:
        yield path, value
    if isinstance(value, Mapping) and depth:
        for name, part in value.items():
            yield from _walk(part, depth - 1, f'{path}.{name}' if path else str(name))


def check_sections(cfg: Config | Mapping[str, Any]) -> None:
    """Check the types of the parts of a config that every run reads.

    Args:
        cfg: a config.

    Raises:
        ParameterError: naming the first that is of another type.
    """
    for place, value in _walk(dict(cfg.items()), 3):  # mmengine's Config is no Mapping
        for patterns, fits, allowed in RULES:
            if value is not None and any(
                    fnmatch.fnmatchcase(place, pattern) and place.count('.') == pattern.count('.')
                    for pattern in patterns) and not fits(value):
                raise ParameterError(place, value, allowed, OWN_FILE if 'dict' in allowed else '')


def check_loops(cfg: Config) -> None:
    """Check that training, validation and testing are configured whole or not at all, and that a training has a length.

    Args:
        cfg: a config.

    Raises:
        InputError: naming what is absent.
        ParameterError: if the training has no iteration or epoch.
    """
    for loop, parts in LOOPS.items():
        given = [name for name in parts if cfg.get(name) is not None]
        if given and len(given) < len(parts):
            absent = [name for name in parts if name not in given]
            remedy = 'Set all three, or all to None' + (' (tools/train.py --no-validate does that).' if loop == 'val' else '.')
            raise InputError(f'the config has {" and ".join(given)}, but no {" and no ".join(absent)}. {remedy}')
    length = cfg.get('train_cfg')
    if not isinstance(length, Mapping):
        return
    if 'type' not in length and 'by_epoch' not in length:
        raise ParameterError('train_cfg', dict(length), 'it must say whether the run counts iterations or epochs',
                             "Set train_cfg.type='IterBasedTrainLoop' with max_iters, or 'EpochBasedTrainLoop' with max_epochs.")
    for name in LENGTHS:
        if length.get(name, 1) == 0:
            raise ParameterError(f'train_cfg.{name}', 0, 'a run without an iteration trains nothing', 'Set it to at least 1.')


def describe_unreadable(value: str) -> str | None:
    """Say why a value of the command line would not become what it looks like, or None if it will.

    Args:
        value: behind the ``=``.
    """
    looks = value.strip().lstrip('[(').lstrip()
    if looks.startswith(('dict(', '{')):
        return ('a value of the command line cannot be a dict. Set its entries by dotted names, such as '
                'model.backbone.adapter.type=mmparax.LoRA, or write it in a config file')
    for opening, closing in ('()', '[]', '{}'):
        if value.strip().startswith(('[', '(')) and value.count(opening) != value.count(closing):
            return f'it has {value.count(opening)} {opening!r} and {value.count(closing)} {closing!r}. Quote lists: key="[a,b]"'
    return None
