"""BitFit: of the base, the biases are trainable.

Paper: Ben Zaken et al., "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models", ACL 2022.
"""
from torch import nn

from mmparax.adapters.frozen import Frozen
from mmparax.registry import MODELS


@MODELS.register_module()
class BitFit(Frozen):
    """BitFit (Ben Zaken et al., ACL 2022): freezes the base but for the biases of its layers, norms included; adds nothing."""

    def tunes(self, module: nn.Module, name: str) -> bool:
        return name == 'bias'
