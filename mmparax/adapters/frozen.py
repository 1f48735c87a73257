"""The frozen base without adapters: output norms and head train, nothing else (the lower reference of every table)."""
from typing import Sequence, Tuple

from mmparax.adapters.base import Method
from mmparax.registry import MODELS


@MODELS.register_module()
class Frozen(Method):
    """Freeze the backbone and add nothing."""

    def __init__(self):
        super().__init__()

    def select_sites(self, offered: Sequence[str], branches: int, family: str) -> Tuple[str, ...]:
        return ()
