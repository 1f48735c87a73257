"""What a checkpoint keeps: all trainable weights and what evaluation needs, not a base that a base checkpoint holds."""
from collections.abc import Mapping
from typing import Any

from mmengine.logging import HistoryBuffer
from torch import nn

from mmparax.backbones.adapted import AdaptedBackbone, find_adapted_backbones
from mmparax.backbones.base_weights import BaseSource
from mmparax.utils.names import join_name
from mmparax.weights.claims import EMA, EMA_OWNER


def collect_frozen_names(model: nn.Module) -> set[str]:
    """Return the names of the parameters and buffers of the frozen bases in a model; none under full fine-tuning."""
    return {join_name(owner, name) for owner, backbone in find_adapted_backbones(model) for name in backbone.frozen_names()}


def find_backbones_without_base_checkpoint(model: nn.Module) -> list[AdaptedBackbone]:
    """Return the adapted backbones whose frozen base a checkpoint must hold, because no base checkpoint holds it."""
    return [
        backbone for _, backbone in find_adapted_backbones(model)
        if backbone.method is not None and backbone.base_source is not BaseSource.FILE
    ]


def drop_frozen(checkpoint: dict[str, Any], model: nn.Module) -> None:
    """Remove the frozen base from a checkpoint that is about to be written, unless it would exist nowhere else.

    Everything outside the backbones stays, frozen or not, with all buffers; so do moving averages of trainable weights.

    Args:
        checkpoint: as mmengine's runner makes it; changed in place. The model's own state dict stays.
        model: the model inside all wrappers.
    """
    without_file = {id(backbone) for backbone in find_backbones_without_base_checkpoint(model)}
    dropped = [
        join_name(owner, name) for owner, backbone in find_adapted_backbones(model) if id(backbone) not in without_file
        for name in backbone.frozen_names()
    ]
    for key, owner in (('state_dict', ''), (EMA, EMA_OWNER)):
        for name in dropped:
            checkpoint.get(key, {}).pop(join_name(owner, name), None)


def trim_histories(state: Mapping[str, Any], log_processor: Any) -> None:
    """Shorten the histories of logged values in a message hub's state to what a resumed run logs from.

    mmengine keeps up to a million values of each. What is logged are means over a window, or the last value; the whole
    history is needed only of a value that ``custom_cfg`` of the log processor asks for with a window that is not a number.

    Args:
        state: ``message_hub`` of a checkpoint; changed in place. The hub itself keeps its histories.
        log_processor: the runner's.
    """
    windows: dict[str, int | None] = {}
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
