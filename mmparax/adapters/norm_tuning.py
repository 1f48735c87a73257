"""Norm tuning: of the base, the scales and biases of the norms are trainable.

Paper: Basu et al., "Strong Baselines for Parameter Efficient Few-Shot Fine-tuning", AAAI 2024, section 4 (LN-Tune).
"""
from torch import nn

from mmparax.adapters.frozen import Frozen
from mmparax.registry import MODELS

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@MODELS.register_module()
class NormTuning(Frozen):
    """LN-Tune (Basu et al., AAAI 2024): freezes the base but for the weights and biases of its norms; adds nothing."""

    def tunes(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, NORMS)
