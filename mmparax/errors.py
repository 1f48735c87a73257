"""How mmparax words what a user can mend: parameter, value, what is allowed, what to do.

Every such error is also a :class:`UserError`; the scripts in ``tools/`` print it as one sentence without a traceback.
"""
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

# An environment variable that makes the scripts show where an error comes from.
TRACEBACK = 'MMPARAX_TRACEBACK'

LONGEST_NUMBER = 40  # digits of an integer that is shown
LONGEST_SEQUENCE = 12  # entries of a list or tuple that is shown


def show(value: Any) -> str:
    """The ``repr`` of a value; of an integer that fills the screen only its length, of a long list its first entries."""
    if isinstance(value, (list, tuple)) and len(value) > LONGEST_SEQUENCE:
        first = ', '.join(map(show, value[:3]))
        opening, closing = '[]' if isinstance(value, list) else '()'
        return f'{opening}{first}, ...{closing} ({len(value)} entries)'
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**LONGEST_NUMBER:
        return f'an integer of about {int(value.bit_length() * math.log10(2)) + 1} digits'
    return repr(value)


class UserError(Exception):
    """Marks an error that its message explains completely."""


class InputError(UserError, ValueError):
    """Arguments, a config or a file that do not fit."""


class ParameterError(InputError):
    """One wrong argument.

    Attributes:
        parameter: its name in Python or its place in a config, such as ``'model.backbone.arch'``.
        value: what was given.
        allowed: what it may be, a clause such as ``'it must be a finite number'``.
        remedy: what to do, whole sentences, or ''.
    """

    def __init__(self, parameter: str, value: Any = None, allowed: str = '', remedy: str = ''):
        super().__init__(parameter, value, allowed, remedy)
        self.parameter, self.value, self.allowed, self.remedy = parameter, value, allowed, remedy

    def __str__(self) -> str:
        if not self.allowed:  # made anew from its sentence, as PyTorch does with errors of workers
            return self.parameter
        return f'{self.parameter}={show(self.value)} is not allowed: {self.allowed}.' + (f' {self.remedy}' if self.remedy else '')


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that should be there."""


class MissingPackageError(UserError, ImportError):
    """A package that is not installed."""


class StorageError(UserError, OSError):
    """A checkpoint that could not be written, or a folder that another run writes to."""


class TrainingError(UserError, RuntimeError):
    """A run that would train the wrong thing, or nothing."""


class DataError(UserError, RuntimeError):
    """A file of the data that cannot be used, found while a run reads it.

    PyTorch makes an error of a worker process anew from its whole traceback; here only the sentence is kept.
    """

    def __init__(self, text: str):
        name = f'{type(self).__module__}.{type(self).__qualname__}: '
        super().__init__(text.rpartition(name)[2].strip() if text.startswith('Caught ') else text)


class RandomBaseError(UserError, RuntimeError):
    """A backbone whose base would run without pre-trained weights."""


class UpstreamChangedError(UserError, TypeError):
    """A toolbox whose code is not the one that mmparax extends."""


def check_int(parameter: str, value: Any, minimum: int = 1) -> int:
    """Return ``value`` if it is an integer of at least ``minimum``, else raise ParameterError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise ParameterError(parameter, value, f'it must be an integer of at least {minimum}')
    return int(value)


def check_seed(parameter: str, value: Any) -> int:
    """Return ``value`` if every generator takes it as a seed (NumPy's older one has 32 bits), else raise ParameterError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < 2**32:
        raise ParameterError(parameter, value, f'it must be an integer from 0 to {2**32 - 1}')
    return int(value)


def check_number(parameter: str, value: Any) -> float:
    """Return ``value`` if it is a finite number, else raise ParameterError."""
    try:
        finite = not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        finite = False
    if not finite:
        raise ParameterError(parameter, value, 'it must be a finite number')
    return float(value)


def check_choice(parameter: str, value: Any, choices: Sequence[Any]) -> Any:
    """Return ``value`` if it is one of ``choices``, else raise ParameterError."""
    if value not in choices:
        raise ParameterError(parameter, value, f'choose one of {", ".join(map(repr, choices))}')
    return value


def check_options(owner: str, options: Mapping[str, Any], known: Iterable[str], hint: str = '') -> None:
    """Raise ParameterError if ``options`` holds a name that is not in ``known``."""
    known = list(known)
    unknown = [name for name in options if name not in known]
    if unknown:
        allowed = f'{owner} has no option {", ".join(map(repr, unknown))}; its options are: {", ".join(known) or "none"}'
        raise ParameterError(unknown[0], options[unknown[0]], allowed, hint)
