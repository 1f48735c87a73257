"""Parts of a config that a registry builds: whether their type is known, and takes the options that they have."""
import contextlib
import difflib
import functools
import inspect
from collections.abc import Collection, Iterator, Mapping
from importlib import import_module
from typing import Any

from mmengine.registry import FUNCTIONS, Registry

from mmparax import registry as mmparax_registry
from mmparax.config.query import find_class
from mmparax.errors import ParameterError
from mmparax.utils.names import join_name
from mmparax.utils.text import join_names

RESERVED = ('type', '_scope_')  # what mmengine takes out of a part before it builds it
NEAR = 3  # names that are proposed


def check_named(registry: Registry, part: Any, place: str, cfg: Mapping[str, Any], given: Collection[str] = (),
                default: str | None = None, dropped: Collection[str] = (), remedy: str = '') -> Any:
    """Check a part of a config that mmengine builds by a registry.

    Args:
        registry: mmengine's of this kind.
        part: a dict with ``type``.
        place: of the part in the config.
        cfg: the whole config.
        given: options that mmengine adds by itself.
        default: type of a part without one.
        dropped: entries that mmengine takes out before it builds the part.
        remedy: what to do about an option that is unknown.

    Returns:
        The class or function.

    Raises:
        ParameterError: if the part is no dict, or its type or an option is unknown or absent.
    """
    cls = find_named(registry, part, place, cfg, default)
    check_call(cls, {name: value for name, value in part.items() if name not in (*RESERVED, *dropped)}, place, given, remedy)
    return cls


def find_named(registry: Registry, part: Any, place: str, cfg: Mapping[str, Any], default: str | None = None) -> Any:
    """The class or function that a part of a config asks for; its options are not looked at.

    Args:
        registry: mmengine's of this kind.
        part: a dict with ``type``.
        place: of the part in the config.
        cfg: the whole config.
        default: type of a part without one.

    Raises:
        ParameterError: if the part is no dict, or its type is unknown or absent.
    """
    if not isinstance(part, Mapping):
        raise ParameterError(place, part, 'it must be a dict with type', 'Leave it out, or write one.')
    if part.get('type') is None and default is None:
        raise ParameterError(place, dict(part), 'it has no type', f'Set {place}.type, or leave the whole entry out.')
    kind = part.get('type', default)
    if registry is FUNCTIONS:  # mmengine looks them up without a scope
        cls = kind if callable(kind) else registry.get(str(kind))
    else:
        cls = kind if callable(kind) else find_class(registry, dict(part, type=str(kind)), cfg)
    if cls is None:
        raise ParameterError(f'{place}.type', kind, f'no {registry.name} has this name',
                             propose(str(kind), list_names(registry,
                                                           part.get('_scope_') or cfg.get('default_scope'))))
    return cls


def check_call(cls: Any, options: Mapping[str, Any], place: str, given: Collection[str] = (), remedy: str = '') -> None:
    """Check that a class or function has the options of a part of a config, and that none is absent.

    Args:
        cls: its constructor is read, and those of its bases as long as they take ``**kwargs``.
        options: of the part.
        place: of the part in the config.
        given: options that mmengine adds by itself.
        remedy: what to do about one that is unknown.

    Raises:
        ParameterError: naming the first option.
    """
    known, required = read_options(cls)
    name = getattr(cls, '__name__', str(cls))
    if known is not None:
        for option in options:
            if option not in known:
                others = [other for other in known if other not in given]
                raise ParameterError(f'{place}.{option}', options[option],
                                     f'{name} has no option {option!r}; its options are: {join_names(others, 20) or "none"}',
                                     remedy or propose(option, others))
    absent = [option for option in required if option not in options and option not in given]
    if absent:
        raise ParameterError(f'{place}.{absent[0]}', None, f'{name} needs it', f'Set {place}.{absent[0]}.')


def read_options(cls: Any) -> tuple[list[str] | None, list[str]]:
    """Names of all options, or None if any will do, and of those without a default."""
    known: list[str] = []
    required: list[str] = []
    passes_all = True  # whether a mixin hands everything on to its base
    for number, owner in enumerate(inspect.getmro(cls) if inspect.isclass(cls) else [cls]):
        if inspect.isclass(owner) and '__init__' not in vars(owner):
            continue
        try:
            parameters = list(inspect.signature(owner.__init__ if inspect.isclass(owner) else owner).parameters.values())
        except (TypeError, ValueError):  # compiled
            return None, []
        parameters = parameters[1:] if inspect.isclass(owner) else parameters
        named = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        if passes_all:
            required += [each.name for each in named if each.default is each.empty and each.name not in required]
        passes_all = any(each.kind is each.VAR_POSITIONAL for each in parameters)
        known += [each.name for each in named if each.name not in known]
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            return known, required
        if owner is object or number and not named:
            break
    return None, required


def propose(name: str, names: Collection[str]) -> str:
    """A sentence with the names that are nearest to one that is unknown."""
    plain = name.rpartition('.')[2]
    names = sorted({*names})
    near = [other for other in names if other.rpartition('.')[2].lower() == plain.lower()]
    near = near or difflib.get_close_matches(plain, names, NEAR)
    if near:
        return f'Did you mean {" or ".join(map(repr, near))}?'
    return 'Mend the name, or name the package that registers it in custom_imports.'


def list_names(registry: Registry, scope: str | None) -> list[str]:
    """Names that a config can use: those of a scope as they are, those of mmparax with its name in front."""
    names: list[str] = []
    for own in (each for each in list_registries(scope or 'mmengine') if each.name == registry.name):
        names += own.module_dict
    names += [
        f'mmparax.{name}' for own in vars(mmparax_registry).values()
        if isinstance(own, Registry) and own.scope == 'mmparax' and own.name == registry.name for name in own.module_dict
    ]
    return names


# ---- the parts of a model ----


def check_model_types(config: Any, cfg: Mapping[str, Any], place: str = 'model') -> None:
    """Check that the type of every part of a model is known to a registry of its scope.

    Args:
        config: of the model.
        cfg: the whole config.
        place: of the model in it.

    Raises:
        ParameterError: naming the first that is not.
    """
    found: dict[tuple[str, str], Any] = {}
    for path, part, scope in _walk_parts(config, cfg.get('default_scope') or 'mmengine', place, found):
        if found[part['type'], scope] is not None:
            continue
        names = [name for registry in list_registries(scope) for name in list_names(registry, scope)]
        plain = part['type'].rpartition('.')[2]
        # A word without a capital may be a way of doing something that a part knows itself ('conv', 'qkv').
        if plain[:1].isupper() or plain.lower() in {name.lower() for name in names if sum(map(str.isupper, name)) > 1}:
            raise ParameterError(f'{path}.type', part['type'], f'no registry of {scope!r} has this name',
                                 propose(part['type'], names))


def _walk_parts(config: Any, scope: str, path: str, found: dict[tuple[str, str],
                                                                Any]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Yield (place, part, scope) of every part with a type; what a class of somebody else takes is its own business."""
    if isinstance(config, Mapping):
        scope = config.get('_scope_') or scope
        kind = config.get('type')
        if isinstance(kind, str):
            if (kind, scope) not in found:
                found[kind, scope] = find_anywhere(kind, scope)
            yield path, config, scope
            if not str(getattr(found[kind, scope], '__module__', 'mm')).startswith(('mm', 'torch')):
                return
        items = list(config.items())
    else:
        items = list(enumerate(config)) if isinstance(config, (list, tuple)) else []
    for name, value in items:
        if isinstance(value, (Mapping, list, tuple)):
            yield from _walk_parts(value, scope, join_name(path, str(name)), found)


@functools.cache
def list_registries(scope: str) -> tuple[Registry, ...]:
    """mmengine's registries and those of a toolbox, filled."""
    registries = []
    for module in ('mmengine.registry', f'{scope}.registry'):
        with contextlib.suppress(ImportError):
            registries += [each for each in vars(import_module(module)).values() if isinstance(each, Registry)]
    for registry in registries:
        registry.import_from_location()
    return tuple(registries)


def find_anywhere(kind: str, scope: str) -> Any:
    """What any registry of a scope knows by a name, or what mmcv's operations do, or None."""
    for registry in list_registries(scope):
        # Without a scope in front; mmengine would look for a module of this name, too, which takes long.
        found = registry.get(kind) if '.' in kind else registry.module_dict.get(kind)
        if found is not None:
            return found
    with contextlib.suppress(ImportError):
        return getattr(import_module('mmcv.ops'), kind, None)  # RoIAlign, nms
    return None
