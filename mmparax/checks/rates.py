"""Whether the learning rate reaches the adapters: multipliers of a config were made for pre-trained backbones."""
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from mmparax.backbones.adapted import find_adapted_backbones
from mmparax.backbones.roles import EXPERT_CENTERS, Role
from mmparax.checks.optimizer import list_optim_wrappers
from mmparax.utils.names import join_name, make_prefix
from mmparax.utils.text import summarize_names

NEW = (Role.ADAPTER, Role.EXPERT_CENTER)  # what starts from nothing, as a head does
FRAGMENTS = (EXPERT_CENTERS, 'adapters')  # in the name of each new parameter of a backbone there is one of these


def describe_multipliers(model: nn.Module, wrapper: Any, paramwise_cfg: Mapping[str, Any] | None) -> str | None:
    """Say that adapters learn at another rate than the run's, by which setting, and what to do.

    Args:
        model: what the run trains.
        wrapper: its optimizer wrapper, or a dict of several.
        paramwise_cfg: ``optim_wrapper.paramwise_cfg`` of the config.

    Returns:
        A sentence, or None if all have one rate.
    """
    rates = {
        id(parameter): group.get('initial_lr', group['lr']) for part in list_optim_wrappers(wrapper)
        for group in part.param_groups for parameter in group['params']
    }
    new = {
        join_name(owner, name): parameter for owner, backbone in find_adapted_backbones(model) if backbone.method is not None
        for name, parameter in backbone.parameters_of(*NEW).items()
    }
    inside = tuple(make_prefix(owner) for owner, _ in find_adapted_backbones(model))
    keys = (paramwise_cfg or {}).get('custom_keys') or {}

    def find_multiplier(name: str) -> float:
        key = find_key(keys, name)
        return (keys[key].get('lr_mult') or 1.) if key else 1.

    # A head may have a multiplier of its own, as SegFormer's has; the rate of the run is the one without it.
    of_head = Counter(rates[id(parameter)] / find_multiplier(name) for name, parameter in model.named_parameters()
                      if id(parameter) in rates and not name.startswith(inside))
    if not of_head or not new:
        return None
    usual = of_head.most_common(1)[0][0]
    other = {
        name: rates[id(parameter)] for name, parameter in new.items()
        if not math.isclose(rates.get(id(parameter), usual), usual, rel_tol=1e-6)
    }
    if not other or not usual:
        return None
    found = sorted({f'{rate / usual:g}' for rate in other.values()}, key=float)
    span = found[0] if len(found) == 1 else f'{found[0]} to {found[-1]}'
    return (f'{len(other)} of {len(new)} tensors of the adapters have {span} of the learning rate of the run ({usual:g}): a '
            f'multiplier for a pre-trained backbone reaches them {_name_cause(keys, other)}, and they start from nothing. '
            f'{_name_remedy(paramwise_cfg or {}, keys, other)}')


def find_key(keys: Iterable[str], name: str) -> str | None:
    """The key of ``custom_keys`` by which mmengine sets a parameter: the longest in its name, then the first by alphabet."""
    return next((key for key in sorted(sorted(keys), key=len, reverse=True) if key in name), None)


def _name_cause(keys: Mapping[str, Any], names: Iterable[str]) -> str:
    causes = sorted({key for key in (find_key(keys, name) for name in names) if key and 'lr_mult' in keys[key]})
    return f'(custom_keys: {summarize_names(causes)})' if causes else '(by the constructor or paramwise_cfg of optim_wrapper)'


def _name_remedy(paramwise_cfg: Mapping[str, Any], keys: Mapping[str, Any], names: Mapping[str, float]) -> str:
    added = choose_keys(keys, list(names))
    if not added or paramwise_cfg.keys() & {'decay_rate', 'decay_type', 'num_layers', 'layer_decay_rate'}:
        return (
            "Set optim_wrapper.constructor='mmparax.OptimWrapperConstructor' and optim_wrapper.paramwise_cfg=None: a frozen base "
            'needs no decay by layers.')
    entries = ', '.join(f'{key!r}: dict(lr_mult=1.0)' for key in added)
    return f'If that is not meant, add optim_wrapper=dict(paramwise_cfg=dict(custom_keys={{{entries}}})).'


def choose_keys(keys: Iterable[str], names: Sequence[str]) -> list[str]:
    """Keys of ``custom_keys`` that win over the present ones for all of some parameters and reach no others.

    Args:
        keys: those present.
        names: of parameters of adapters and expert centers.

    Returns:
        The keys; empty if none would win.
    """
    chosen: list[str] = []
    for name in names:
        if find_key(chosen, name) is not None and find_key([*keys, *chosen], name) in chosen:
            continue
        parts = name.split('.')
        fragment = next((part for part in FRAGMENTS if part in parts), None)
        if fragment is None:
            return []
        start = parts.index(fragment)
        # Every run of parts with the fragment in it; that which serves the most parameters, and of those the shortest.
        candidates = {'.'.join(parts[begin:end]) for begin in range(start + 1) for end in range(start + 1, len(parts) + 1)}
        winners = [key for key in candidates if find_key([*keys, key], name) == key]
        key = max(winners, key=lambda key: (sum(key in other for other in names), -len(key), key), default=None)
        if key is None:
            return []
        chosen.append(key)
    return chosen if len(chosen) <= 12 else []
