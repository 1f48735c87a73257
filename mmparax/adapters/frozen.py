"""The frozen base without adapters, the lower reference of every table: output norms and head are trainable."""
from collections.abc import Sequence

from mmparax.adapters.base import Method
from mmparax.registry import MODELS


@MODELS.register_module()
class Frozen(Method):
    """Freezes the base and adds nothing."""

    def __init__(self):
        super().__init__()

    def select_sites(self, offered: Sequence[str], branches: int, family: str) -> tuple[str, ...]:
        return ()
