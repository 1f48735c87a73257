"""Merges adapters into the frozen weights where that is exact, and undoes it."""

from mmengine.logging import print_log
from torch import nn

from mmparax.backbones.adapted import AdaptedBackbone, find_adapted_backbones
from mmparax.backbones.block import AdaptedLinear, find_adapter_modules
from mmparax.errors import InputError
from mmparax.utils.modules import unwrap_model


def merge_adapter(model: nn.Module) -> int:
    """Add the adapters of ``model`` to the frozen weights beside them: inference then costs as much as the plain backbone.

    The result is exact up to rounding for adapters that are linear and the same for every input: LoRA. Any other adapter is
    refused. A method that adds no modules (``Frozen``, ``BitFit``, ``NormTuning``, full fine-tuning) has nothing to merge:
    nothing happens, and the log says so.

    A copy of the rows that change is kept for :func:`unmerge_adapter`: for LoRA on q and v of every attention about a sixth
    of the base's memory. A merged model can run and be copied. Training it, its state dict, loading into it and its
    fingerprint are errors. Merging it again changes nothing.

    Args:
        model: an adapted backbone or a whole model around one, with its base loaded.

    Returns:
        Number of linear maps that hold merged adapters.

    Raises:
        InputError: if the adapters are not linear maps beside frozen ones, ``model`` has no backbone of mmparax, or other
            models share its base; nothing is changed then.
        RandomBaseError: if the base has not been loaded.
    """
    model = unwrap_model(model)
    backbones = _find_backbones(model, 'merge')
    for backbone in backbones:
        check_mergeable(backbone)
    linears = _find_linears(model)
    if not linears:
        print_log(f'{type(model).__name__} has no adapters beside its weights: nothing to merge.', logger='current')
        return 0
    try:
        for linear in linears:
            if not linear.original_rows:
                linear.merge()
    except BaseException:  # such as out of memory: all or nothing
        for linear in linears:
            linear.unmerge()
        for backbone in backbones:
            backbone.merged = False
        raise
    for backbone in backbones:
        backbone.merged = bool(_find_linears(backbone))
    return len(linears)


def unmerge_adapter(model: nn.Module) -> int:
    """Undo :func:`merge_adapter`: every frozen weight is what it was, bit for bit.

    Args:
        model: as there. A model that is not merged stays as it is.

    Returns:
        Number of linear maps that were restored.

    Raises:
        InputError: if ``model`` has no backbone of mmparax.
    """
    model = unwrap_model(model)
    backbones, linears = _find_backbones(model, 'unmerge'), [linear for linear in _find_linears(model) if linear.original_rows]
    for linear in linears:
        linear.unmerge()
    for backbone in backbones:
        backbone.merged = False
    return len(linears)


def check_mergeable(backbone: AdaptedBackbone) -> None:
    """Raise InputError or RandomBaseError, saying why, if the adapters of a backbone cannot be merged."""
    backbone.check_base()
    method = backbone.method
    if any(not hasattr(module, 'weight_update') for _, module in find_adapter_modules(backbone)):
        raise InputError(f'{type(method).__name__} cannot be merged into the frozen weights: {method.not_mergeable}. Only '
                         'linear, input-independent adapters such as LoRA can; deploy this one as it is '
                         '(docs/deployment.md).')
    if backbone.shared and any(True for _ in find_adapter_modules(backbone)):
        raise InputError(f'this {type(backbone).__name__} shares its base with other models of an AdapterBank, which would '
                         'change: load the adapter into a model of its own to merge it.')


def _find_backbones(model: nn.Module, what: str) -> list[AdaptedBackbone]:
    backbones = [backbone for _, backbone in find_adapted_backbones(model)]
    if not backbones:
        raise InputError(f'{type(model).__name__} holds no backbone of mmparax, so there is no adapter to {what}.')
    return backbones


def _find_linears(root: nn.Module) -> list[AdaptedLinear]:
    return [module for module in root.modules() if isinstance(module, AdaptedLinear)]
