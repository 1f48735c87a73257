"""Names and defaults of the arguments that a function or constructor takes."""
import inspect
from typing import Any


def list_keywords(*callables: Any) -> list:
    """Names of the keyword arguments of the given constructors, in order, without ``self`` and ``**kwargs``."""
    names: dict = {}
    for function in callables:
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name != 'self':
                names[name] = None
    return list(names)


def get_keyword_defaults(function: Any) -> dict:
    """Default of each keyword argument of a constructor that has one."""
    parameters = inspect.signature(function).parameters
    return {
        name: parameters[name].default for name in list_keywords(function)
        if parameters[name].default is not inspect.Parameter.empty
    }
