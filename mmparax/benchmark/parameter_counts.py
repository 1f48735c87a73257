"""Trainable parameters of the backbones of configs, each built once on the meta device and then remembered in a file."""
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmpretrain
from mmengine.registry import MODELS

from mmparax.backbones.parameters import count_parameters
from mmparax.errors import StorageError
from mmparax.utils.code_digest import compute_parts_digest, encode_content, read_package_source
from mmparax.utils.meta_device import use_meta_device
from mmparax.utils.storage import write

CACHE = Path('~/.cache/mmparax/parameter_counts.json')
# Options of a backbone's config on which its parameters do not depend.
IRRELEVANT = ('base_checkpoint', 'allow_random_base', 'drop_path_rate', 'with_cp', 'init_cfg')


class ParameterCounter:
    """Counts the trainable parameters of backbones.

    Args:
        cache: file in which the counts are kept; they are counted anew when the code of adapters, backbones or
            counting changes.

    Attributes:
        counts: digest of a backbone's config -> number of parameters.
    """

    def __init__(self, cache: Path | None = None):
        self.cache = (cache or CACHE).expanduser()
        self.source = compute_parts_digest(read_package_source('adapters', 'backbones', 'utils/meta_device.py'),
                                           mmpretrain.__version__.encode())
        self.counts: dict[str, int] = {}
        try:
            known = json.loads(self.cache.read_text(encoding='utf-8'))
            if known['source'] == self.source:
                self.counts = known['counts']
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it only saves time
        self._changed = False

    def count(self, backbone: Mapping[str, Any]) -> int:
        """Trainable parameters of the backbone of a config; no base is loaded, and the head does not count."""
        options = {name: value for name, value in backbone.items() if name not in IRRELEVANT}
        key = compute_parts_digest(encode_content(options))
        if key not in self.counts:
            with use_meta_device():
                built = MODELS.build({**options, 'base_checkpoint': None, 'allow_random_base': True})
            self.counts[key] = count_parameters(built).trainable_in_backbone
            self._changed = True
        return self.counts[key]

    def save(self) -> None:
        """Keep the counts for the next time, if the cache can be written to."""
        if self._changed:
            try:
                write(self.cache, json.dumps(dict(source=self.source, counts=self.counts)).encode())
            except StorageError:
                pass
            self._changed = False


def fit_width(counter: ParameterCounter, backbone: Mapping[str, Any], adapter: Mapping[str, Any], option: str,
              target: int) -> int:
    """The integer option of an adapter with which a backbone's trainable parameters come nearest to ``target``.

    Args:
        counter: counts, and remembers.
        backbone: config of the backbone.
        adapter: config of the adapter.
        option: its width; more of it means more parameters.
        target: wanted number of trainable parameters.
    """

    def count(width: int) -> int:
        return counter.count({**backbone, 'adapter': {**adapter, option: width}})

    low, high = 1, 2
    while count(high) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= target else (low, middle)
    return min((low, high), key=lambda width: abs(count(width) - target))
