"""Checks of the options of upstream's backbone classes, before anything is built."""
from collections.abc import Mapping, Sequence
from typing import Any

from mmparax.errors import ParameterError
from mmparax.utils.signatures import get_keyword_defaults


def find_archs(upstream: type) -> dict[str, Any]:
    """Return the named architectures of an upstream class: name -> its options; empty if it has none."""
    return {**getattr(upstream, 'arch_zoo', {}), **getattr(upstream, 'arch_settings', {})}


def check_backbone_options(options: Mapping[str, Any], upstream: type, family: str, frozen: bool,
                           no_frozen_stages: int) -> dict[str, Any]:
    """Check the options that upstream would misread or that would spoil a frozen base.

    Args:
        options: those that the user set.
        upstream: the toolbox's class.
        family: its name, for the errors.
        frozen: whether there is a method, so that the base is frozen as a whole.
        no_frozen_stages: the value of ``frozen_stages`` with which upstream freezes nothing.

    Returns:
        The options in the form that every upstream class takes: names of architectures in lower case, ``out_indices``
        counted from 0.

    Raises:
        ParameterError: for an unknown ``arch``, outputs that do not exist, ``pretrained`` and ``init_cfg`` with weights,
            which belong to ``base_checkpoint``, and ``frozen_stages`` beside a method.
    """
    options = dict(options)
    shape = {**get_keyword_defaults(upstream), **options}
    arch = shape.get('arch')
    if isinstance(arch, str):
        name = check_arch(arch, find_archs(upstream), family)
        arch = find_archs(upstream)[name]
        if 'arch' in options:
            options['arch'] = name
    if 'out_indices' in options:
        shape = dict(arch) if isinstance(arch, Mapping) else shape
        depths = shape.get('depths', shape.get('num_layers'))
        count = len(depths) if isinstance(depths, Sequence) else depths
        options['out_indices'] = check_out_indices(options['out_indices'], count, family)
    check_no_other_weights(options)
    stages = options.get('frozen_stages', no_frozen_stages)
    if frozen and stages != no_frozen_stages:
        raise ParameterError(
            'frozen_stages', stages, 'a backbone with an adapter is frozen as a whole, and upstream would '
            'freeze the adapters of these stages too', 'Remove frozen_stages.')
    return options


def check_arch(arch: str, archs: Mapping[str, Any], family: str) -> str:
    """Return the name of an architecture as ``archs`` has it, else raise ParameterError with the known names."""
    if arch.lower() not in archs:
        raise ParameterError('arch', arch, f'{family} has the archs {", ".join(map(repr, archs))}, or a dict of its own')
    return arch.lower()


def check_out_indices(given: Any, count: int | None, family: str) -> Any:
    """Return ascending indices from 0 for indices that may be negative, or for a single one.

    Args:
        given: what the user set. What holds no integers is returned as it is, because upstream says what it takes.
        count: outputs of the model, if known.
        family: for the error.

    Raises:
        ParameterError: for outputs that do not exist, which upstream ignores, or that are not in order.
    """
    indices = given if isinstance(given, Sequence) else [given]
    if not count or any(isinstance(index, bool) or not isinstance(index, int) for index in indices):
        return given
    positive = tuple(index + count if index < 0 else index for index in indices)
    if not positive or any(not 0 <= index < count for index in positive) or sorted(set(positive)) != list(positive):
        raise ParameterError('out_indices', given, f'this {family} has the outputs 0 to {count - 1}, each once and in '
                             'ascending order')
    return positive


def check_no_other_weights(options: Mapping[str, Any]) -> None:
    """Raise ParameterError if upstream's own options would load weights, which it does without a check."""
    allowed = 'the pre-trained base is given by base_checkpoint, which checks that every weight fits'
    pretrained = options.get('pretrained')
    if pretrained not in (None, False):
        path = pretrained.get('checkpoint') if isinstance(pretrained, Mapping) else pretrained
        remedy = f'Use base_checkpoint={path!r}.' if isinstance(path, str) and path else \
            "Use base_checkpoint='PATH_OR_URL'."
        raise ParameterError('pretrained', pretrained, allowed, remedy)
    init_cfg = options.get('init_cfg')
    for cfg in init_cfg if isinstance(init_cfg, (list, tuple)) else [init_cfg]:
        if isinstance(cfg, Mapping) and 'Pretrained' in str(cfg.get('type')):
            raise ParameterError('init_cfg', dict(cfg), allowed, f'Use base_checkpoint={cfg.get("checkpoint")!r}.')


def drop_empty_pretrained(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without a ``pretrained`` that asks for nothing; older configs have it, and most classes do not know it.

    Raises:
        ParameterError: if it or ``init_cfg`` asks for weights.
    """
    check_no_other_weights(options)
    return {name: value for name, value in options.items() if name != 'pretrained'}
