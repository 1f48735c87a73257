"""What each parameter and buffer of an adapted backbone is a part of."""
from collections.abc import Sequence
from enum import Enum

from torch import nn

from mmparax.adapters.base import Method
from mmparax.backbones.block import find_adapter_modules
from mmparax.utils.names import make_prefix

EXPERT_CENTERS = 'expert_centers'  # the module of a backbone that holds what the blocks of a stage share


class Role(str, Enum):
    """Decides whether a parameter is trainable and where it is saved; a member equals its text, such as ``'base'``."""
    BASE = 'base'  # pre-trained; frozen by every method, trainable under full fine-tuning
    TUNED = 'tuned'  # pre-trained, and trainable with this method (BitFit, NormTuning)
    ADAPTER = 'adapter'
    EXPERT_CENTER = 'expert_center'
    OUTPUT_NORM = 'output_norm'  # new, trainable with every method


def find_roles(backbone: nn.Module, output_norms: Sequence[str], method: Method | None) -> dict[str, Role]:
    """Return the role of each parameter and buffer by its name in the state dict, in the state dict's order.

    Args:
        backbone: with its adapters in place.
        output_norms: names of the norms on its outputs.
        method: which tells the parameters of the base that it tunes; None for full fine-tuning.
    """
    owners = {make_prefix(name): Role.ADAPTER for name, _ in find_adapter_modules(backbone)}
    owners[make_prefix(EXPERT_CENTERS)] = Role.EXPERT_CENTER
    owners.update({make_prefix(name): Role.OUTPUT_NORM for name in output_norms})
    roles = {
        name: next((role for prefix, role in owners.items() if name.startswith(prefix)), Role.BASE)
        for name in backbone.state_dict()
    }
    if method is not None:
        for path, module in backbone.named_modules():
            for name, _ in module.named_parameters(path, recurse=False):
                if roles[name] is Role.BASE and method.tunes(module, name.rpartition('.')[2]):
                    roles[name] = Role.TUNED
    return roles
