"""Whether the schedulers of the learning rate fit the length of a run."""
from collections.abc import Iterator, Mapping
from typing import Any

from mmparax.checks.optimization import list_schedulers

ENDLESS = int(1e9)  # mmengine's ``end`` of a scheduler that has none
# Schedulers that come down to ``eta_min`` or ``end_factor`` at their end and leave the rate there.
FALLING = ('PolyLR', 'CosineAnnealingLR', 'LinearLR', 'OneCycleLR', 'CosineRestartLR')
RISING = ('LinearLR', 'ConstantLR', 'QuadraticWarmupLR')  # a warm-up starts low
AFTER_VALIDATION = ('ReduceOnPlateauLR', )  # acts at every validation, whatever counts the run
NEARLY_ZERO = 1e-6  # of the rate of the config


def describe_schedulers(cfg: Mapping[str, Any], length: int, per_epoch: int) -> list[str]:
    """Say which schedulers of the learning rate do not do what a run of this length needs.

    Args:
        cfg: of the run.
        length: iterations of the run.
        per_epoch: iterations of an epoch.

    Returns:
        A sentence for each.
    """
    schedulers = list(_list_rates(cfg.get('param_scheduler')))
    by_epoch_run = 'max_epochs' in (cfg.get('train_cfg') or {}) or (cfg.get('train_cfg') or {}).get('by_epoch') is True
    sentences: list[str] = []
    acting = []
    for place, scheduler in schedulers:
        if str(scheduler.get('type')).endswith(AFTER_VALIDATION):
            continue  # in every run
        if not by_epoch_run and scheduler.get('by_epoch', True) and not scheduler.get('convert_to_iter_based'):
            sentences.append(
                f'{place} ({scheduler.get("type")}) counts epochs, which a run by iterations has not: it never acts. '
                f'Set {place}.by_epoch=False.')
            continue
        unit = per_epoch if scheduler.get('by_epoch', True) else 1
        acting.append((place, scheduler, unit))
    for place, scheduler, unit in acting:
        owner = place.rpartition('.')[0]
        others = [_get_span(other, own)[1] for name, other, own in acting if name.rpartition('.')[0] == owner]
        sentences += _describe(place, scheduler, unit, length, max(others))
    return sentences


def _list_rates(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (place, config) of the schedulers that act on the learning rate."""
    for place, scheduler in list_schedulers(config):
        if isinstance(scheduler, Mapping) and str(scheduler.get('type')).endswith('LR'):
            yield place, scheduler


def _describe(place: str, scheduler: Mapping[str, Any], unit: int, length: int, last: int) -> list[str]:
    """What is to be said of one; ``last`` is the iteration at which the last one of its optimizer ends."""
    kind, begin, end = str(scheduler.get('type')).rpartition('.')[2], *_get_span(scheduler, unit)
    rises = kind in RISING and _get_start(kind, scheduler) < scheduler.get('end_factor', 1.)
    remedy = f'Set {place}.end' + (f' and {place}.T_max' if 'T_max' in scheduler else '') + ' to the length of the run.'
    if rises and min(end, ENDLESS) > length:
        return [
            f'the run ends at iteration {length}, before its warm-up does ({place}, {kind}, until {_name(end)}): the learning '
            f'rate of the config is never reached. Lengthen the run, or shorten {place}.end.'
        ]
    if rises or kind not in FALLING:
        return []
    if 'T_max' in scheduler and begin + scheduler['T_max'] * unit < min(end, length):
        bottom = begin + scheduler['T_max'] * unit
        return [f'{place} ({kind}) falls until iteration {bottom} (T_max) and then rises again, in a run of {length}. {remedy}']
    if end < length and _is_zero(kind, scheduler) and last <= end:
        return [
            f'{place} ({kind}) ends at iteration {end} of {length} and leaves a learning rate of 0: the last '
            f'{length - end} iterations change nothing. {remedy}'
        ]
    return []


def _get_span(scheduler: Mapping[str, Any], unit: int) -> tuple[int, int]:
    """First iteration and the one at which a scheduler ends."""
    begin, end = scheduler.get('begin', 0), scheduler.get('end', ENDLESS)
    if str(scheduler.get('type')).endswith('OneCycleLR') and 'total_steps' in scheduler:
        end = min(end, begin + scheduler['total_steps'])
    return begin * unit, ENDLESS if end >= ENDLESS else end * unit


def _get_start(kind: str, scheduler: Mapping[str, Any]) -> float:
    """The factor at the beginning of a warm-up."""
    if kind == 'ConstantLR':
        return scheduler.get('factor', 1 / 3)
    return 0. if kind == 'QuadraticWarmupLR' else scheduler.get('start_factor', 1 / 3)


def _is_zero(kind: str, scheduler: Mapping[str, Any]) -> bool:
    """Whether nothing is left of the learning rate at the end of a falling scheduler."""
    if kind == 'LinearLR':
        return scheduler.get('end_factor', 1.) <= NEARLY_ZERO
    if kind == 'OneCycleLR':
        return True
    if 'eta_min_ratio' in scheduler and scheduler['eta_min_ratio'] is not None:
        return scheduler['eta_min_ratio'] <= NEARLY_ZERO
    return (scheduler.get('eta_min') or 0.) <= 0.


def _name(iteration: int) -> str:
    return 'the end of every run' if iteration >= ENDLESS else f'iteration {iteration}'
