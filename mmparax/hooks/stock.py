"""Replaces hooks of mmengine that an inherited config names by those of mmparax that do the same for adapted backbones."""
from collections.abc import Iterator, MutableMapping
from typing import Any

from mmengine.config import Config
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import EMAHook as MMEngineEMAHook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import get_priority

from mmparax.backbones.adapted import AdaptedBackbone
from mmparax.config.query import find_class, walk_configs
from mmparax.hooks.ema_hook import EMAHook
from mmparax.utils.signatures import list_keywords

# Options that EMAHook lacks, with the value for which it does the same (mmengine's averaged models, mmpretrain's hook).
EMA_DEFAULTS = dict(ema_type='ExponentialMovingAverage', begin_epoch=0, update_buffers=False, device=None, evaluate_on_ema=True,
                    evaluate_on_origin=False)
EMA_IGNORED = ('strict_load', )  # a resumed EMAHook always finds every average
OF_REGISTRY = ('type', 'priority', '_scope_')


def holds_adapted_backbone(cfg: Config) -> bool:
    """Whether the model of a config holds a backbone of mmparax."""
    for _, part in walk_configs(cfg.get('model')):
        kind = part.get('type')
        scope = part.get('_scope_') or cfg.get('default_scope')
        if not isinstance(kind, str) or kind.startswith('mmparax.') or scope == 'mmparax':
            cls = find_class(MODELS, part, cfg)
            if isinstance(cls, type) and issubclass(cls, AdaptedBackbone):
                return True
    return False


def replace_stock_hooks(cfg: Config) -> list[str]:
    """Replace mmengine's ``CheckpointHook`` and ``EMAHook`` in a config by those of mmparax, with their options.

    mmengine's would save and average the frozen base, too. An ``EMAHook`` with an option that mmparax's lacks stays: its
    averages are right, but it needs the memory of a second model.

    Args:
        cfg: changed in place.

    Returns:
        A sentence for each hook that was replaced, or that stays.
    """
    sentences: list[str] = []
    if 'checkpoint' not in (cfg.get('default_hooks') or {}):  # None is for none
        cfg.default_hooks = dict(cfg.get('default_hooks') or {}, checkpoint=dict(type='CheckpointHook', interval=1))
    for place, hook in _walk_hook_configs(cfg):
        cls = find_class(HOOKS, hook, cfg)
        if cls is MMEngineCheckpointHook:
            _change_type(hook, 'mmparax.CheckpointHook')
            base = "keep the frozen base, as save='all' says" if hook.get('save') == 'all' else \
                "leave the frozen base out (save='all' keeps it)"
            sentences.append(
                f"{place} is mmparax.CheckpointHook in place of mmengine's: checkpoints {base}, and a resumed run is "
                'exact.')
        elif cls is MMEngineEMAHook or getattr(cls, '__module__', '').startswith('mmpretrain.') and issubclass(
                cls, MMEngineEMAHook):
            other = _find_other_options(hook)
            if other:
                named = ', '.join(f'{name}={value!r}' for name, value in other.items())
                sentences.append(f"{place} stays mmengine's EMAHook, which averages a copy of the whole model: "
                                 f'mmparax.EMAHook has no {named}.')
                own = hook.get('priority', getattr(cls, 'priority', 'NORMAL'))
                if get_priority(own) >= get_priority(MMEngineCheckpointHook.priority):
                    hook['priority'] = 'NORMAL'
                    sentences.append(f"{place} has the priority 'NORMAL': it must come before the hook of the checkpoints.")
                continue
            for name in [*EMA_DEFAULTS, *EMA_IGNORED]:
                hook.pop(name, None)
            _change_type(hook, 'mmparax.EMAHook')
            sentences.append(f"{place} is mmparax.EMAHook in place of mmengine's: it averages the trainable parameters alone.")
    return sentences


def _walk_hook_configs(cfg: Config) -> Iterator[tuple[str, MutableMapping[str, Any]]]:
    """Yield (place, config) of the hooks of a run."""
    places = [(f'default_hooks.{name}', hook) for name, hook in (cfg.get('default_hooks') or {}).items()]
    places += [(f'custom_hooks[{number}]', hook) for number, hook in enumerate(cfg.get('custom_hooks') or [])]
    yield from ((place, hook) for place, hook in places if isinstance(hook, MutableMapping) and 'type' in hook)


def _change_type(hook: MutableMapping[str, Any], name: str) -> None:
    hook.pop('_scope_', None)
    hook['type'] = name


def _find_other_options(hook: MutableMapping[str, Any]) -> dict[str, Any]:
    """Options of mmengine's ``EMAHook`` for which mmparax's has nothing."""
    known = {*list_keywords(EMAHook), *EMA_IGNORED, *OF_REGISTRY}
    return {
        name: value for name, value in hook.items()
        if name not in known and not (name in EMA_DEFAULTS and value == EMA_DEFAULTS[name])
    }
