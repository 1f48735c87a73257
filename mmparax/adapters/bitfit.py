"""BitFit: only the biases of the base train.

Paper: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models", ACL 2022.
"""
from torch import nn

from mmparax.adapters.frozen import Frozen
from mmparax.registry import MODELS


@MODELS.register_module()
class BitFit(Frozen):
    """Freeze the base but for the biases of its layers, norms included; nothing is added."""

    def tunes(self, module: nn.Module, name: str) -> bool:
        return name == 'bias'
