"""Norm tuning: only the scales and biases of the base's norms train.

Paper: Basu et al., "Strong Baselines for Parameter Efficient Few-Shot Fine-tuning", AAAI 2024, section 4 (LN-Tune).
"""
from torch import nn

from mmparax.adapters.frozen import Frozen
from mmparax.registry import MODELS

# torch's own base class of the batch norms, whatever the dimension
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


@MODELS.register_module()
class NormTuning(Frozen):
    """Freeze the base but for the weights and biases of its norms; nothing is added."""

    def tunes(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, NORMS)
