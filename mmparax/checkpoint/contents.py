"""What a checkpoint keeps: all that trains and what evaluation needs of it, not the base that a base file gives."""
from typing import Any, Dict, List, Mapping, Optional, Set

from mmengine.logging import HistoryBuffer
from torch import nn

from mmparax.backbones.adapted import AdaptedBackbone, adapted_backbones
from mmparax.weights.claims import EMA, EMA_PREFIX


def names_in(prefix: str, names: List[str]) -> Set[str]:
    """Names of a part of a model, as the model's."""
    return {f'{prefix}.{name}' if prefix else name for name in names}


def frozen_names(model: nn.Module) -> Set[str]:
    """Names of the parameters and buffers of the frozen bases in a model; none under full fine-tuning."""
    return {name for prefix, backbone in adapted_backbones(model) for name in names_in(prefix, backbone.frozen_names())}


def backbones_without_base_file(model: nn.Module) -> List[AdaptedBackbone]:
    """Adapted backbones whose frozen base a checkpoint must hold, because no base file gives it."""
    return [backbone for _, backbone in adapted_backbones(model)
            if backbone.method is not None and backbone.base_source != 'file']


def drop_frozen(checkpoint: Dict[str, Any], model: nn.Module) -> None:
    """Remove the frozen base from a checkpoint that is about to be written, unless it would exist nowhere else.

    Everything outside the backbones stays, frozen or not, with all buffers; so do moving averages of what trains.

    Args:
        checkpoint: as mmengine's runner makes it; changed in place. The model's own state dict is not touched.
        model: the model inside all wrappers.
    """
    kept = {id(backbone) for backbone in backbones_without_base_file(model)}
    dropped = {name for prefix, backbone in adapted_backbones(model) if id(backbone) not in kept
               for name in names_in(prefix, backbone.frozen_names())}
    for key, prefix in (('state_dict', ''), (EMA, EMA_PREFIX)):
        for name in dropped:
            checkpoint.get(key, {}).pop(prefix + name, None)


def trim_histories(state: Mapping[str, Any], log_processor: Any) -> None:
    """Shorten the histories of logged values in a message hub's state to what a resumed run logs from.

    mmengine keeps up to a million values of each. What is logged are means over a window, or the last value; the whole
    history is needed only of a value that ``custom_cfg`` of the log processor asks for with a window that is not a number.

    Args:
        state: ``message_hub`` of a checkpoint; changed in place. The hub itself keeps its histories.
        log_processor: the runner's.
    """
    windows: Dict[str, Optional[int]] = {}
    for entry in log_processor.custom_cfg:
        window = entry.get('window_size')
        length = window if isinstance(window, int) else None
        before = windows.get(entry['data_src'], 0)
        windows[entry['data_src']] = None if length is None or before is None else max(before, length)
    for name, history in state['log_scalars'].items():
        window = windows.get(name.partition('/')[2], windows.get(name, 0))
        if window is None:
            continue
        values, counts = history.data
        length = max(window, log_processor.window_size, 1)
        if len(values) > length:
            state['log_scalars'][name] = HistoryBuffer(values[-length:], counts[-length:], history.max_length)
