"""What a name in a pickle stands for: functions of our own that check their arguments; nothing else is ever called.

NumPy's and PyTorch's own functions trust theirs: a type with fields gives pointers, an offset memory of the process.
"""
import datetime
import math
import pathlib
import re
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from mmparax.weights.pickle_values import (
    Function,
    HistoryMethod,
    Refusal,
    StoredValues,
    Unfinished,
    check_key,
    expect,
    expect_sizes,
)

MAX_HISTORY = 10_000_000  # values that a HistoryBuffer may keep
STATISTICS = ('min', 'max', 'mean', 'current')
DTYPE_CODE = re.compile(r'(b1|[iu][1248]|f[248]|c8|c16|[US]\d{1,6})\Z')


def _make_ordered_dict(entries: Any = ()) -> OrderedDict:
    made: OrderedDict = OrderedDict()
    for entry in expect(entries, tuple, list):
        name, value = expect(entry, tuple, list)
        made[check_key(name)] = value
    return made


def _make_counter(counts: Any = None) -> Counter:
    """As schedulers keep their milestones."""
    counts = expect({} if counts is None else counts, dict)
    if not all(type(count) is int for count in counts.values()):
        raise Refusal('a Counter of something else than integers')
    return Counter({check_key(name): count for name, count in counts.items()})


def set_metadata(target: OrderedDict, state: Any) -> None:
    """A state dict of a module keeps versions by module name in this attribute."""
    metadata = expect(state, dict).get('_metadata')
    if set(state) != {'_metadata'} or not isinstance(metadata, dict) or not all(
            isinstance(name, str) and isinstance(entry, dict) for name, entry in metadata.items()):
        raise Refusal('attributes of an OrderedDict other than versions of modules')
    target._metadata = metadata  # type: ignore[attr-defined]


def set_attributes(target: Namespace, state: Any) -> None:
    for name, value in expect(state, dict).items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith('__'):
            raise Refusal(f'an attribute called {name!r}')
        setattr(target, name, value)


def set_state(target: Any, state: Any) -> None:
    """As pickle does, for a class that the user allowed."""
    if hasattr(target, '__setstate__'):
        target.__setstate__(state)
    else:
        vars(target).update(expect(state, dict))


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    if encoding not in ('latin1', 'latin-1'):
        raise Refusal(f'bytes in the encoding {encoding!r}')
    return expect(text, str).encode('latin1')


def _make_set(kind: type) -> Callable[..., Any]:
    return lambda entries=(): kind(map(check_key, expect(entries, list, tuple, set)))


def _make_number(kind: type) -> Callable[..., Any]:

    def make(*arguments: Any) -> Any:
        if not all(type(entry) in (int, float, bool) for entry in arguments):
            raise Refusal(f'a {kind.__name__} of something else than numbers')
        return kind(*arguments)

    return make


def _make_slice(*limits: Any) -> slice:
    if not 1 <= len(limits) <= 3 or not all(limit is None or type(limit) is int for limit in limits):
        raise Refusal('a slice of something else than integers')
    return slice(*limits)


def _make_time(kind: type) -> Callable[..., Any]:
    """A date or time, whose state is a few bytes or numbers that its own constructor checks."""

    def make(*arguments: Any) -> Any:
        if not all(type(entry) in (int, bytes, datetime.timedelta, datetime.timezone) for entry in arguments):
            raise Refusal(f'a {kind.__name__} of something else than numbers')
        return kind(*arguments)

    return make


def _make_path(kind: type) -> Callable[..., Any]:
    return lambda *parts: kind(*(expect(part, str) for part in parts))


def _get_history_method(owner: Any, name: Any) -> HistoryMethod:
    """Stand in for ``getattr``: the real one leads from any class to ``__globals__``, and from there to ``eval``."""
    if isinstance(owner, Function) and owner.name == HISTORY and name in STATISTICS:
        return HistoryMethod(name)
    raise Refusal(f'Unsupported global: getattr of {name!r}')


def _finish_history(state: Any) -> HistoryBuffer:
    """A HistoryBuffer from its checked fields; its methods are the class's own."""
    state = dict(expect(state, dict))
    state.pop('statistics_methods', None)
    if set(state) != {'max_length', '_log_history', '_count_history'}:
        raise Refusal(f'a HistoryBuffer with the fields {", ".join(sorted(map(str, state)))}')
    length, values, counts = state['max_length'], state['_log_history'], state['_count_history']
    for array in (values, counts):
        if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in 'fiub':
            raise Refusal('a history that is no row of numbers')
    if type(length) is not int or not 0 < length <= MAX_HISTORY or not len(values) == len(counts) <= length:
        raise Refusal('a history of another length than it says')
    history = HistoryBuffer(max_length=length)
    history._log_history, history._count_history = values, counts
    return history


# NumPy: its own constructors trust their arguments, so arrays are made from checked bytes by ``frombuffer``.


def _make_dtype(code: Any, align: Any = False, copy: Any = True) -> Unfinished:
    if not isinstance(code, str) or not DTYPE_CODE.match(code):
        raise Refusal(f'the NumPy type {code!r}')

    def finish(state: Any) -> np.dtype:
        version, order, subdtype, names, fields, *_ = expect(state, tuple)
        if order not in ('<', '>', '|', '=') or any(part is not None for part in (subdtype, names, fields)) or len(state) > 8:
            raise Refusal('a NumPy type with fields or metadata')
        return np.dtype(code).newbyteorder(order)

    return Unfinished('NumPy type', finish)


def _finish_dtype(dtype: Any) -> np.dtype:
    """A finished NumPy type without Python objects in it."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or dtype.fields is not None:
        raise Refusal('an array whose type is not a plain one')
    return dtype


def _make_array(data: Any, dtype: Any, shape: Any, order: str = 'C') -> np.ndarray:
    dtype, shape, data = _finish_dtype(dtype), expect_sizes(shape), expect(data, bytes, bytearray)
    if not dtype.itemsize or math.prod(shape) * dtype.itemsize != len(data):
        raise Refusal(f'{len(data)} bytes for an array of the shape {shape} and type {dtype}')
    values = np.frombuffer(data, dtype) if data else np.empty(0, dtype)  # frombuffer takes no empty bytes
    return values.reshape(shape, order=order).copy(order='K')


def _start_array(kind: Any, shape: Any, code: Any) -> Unfinished:
    if not isinstance(kind, Function) or kind.name != 'numpy.ndarray':
        raise Refusal('an array of another class than ndarray')

    def finish(state: Any) -> np.ndarray:
        _, shape, dtype, fortran, data = expect(state, tuple)
        return _make_array(data, dtype, shape, 'F' if fortran else 'C')

    return Unfinished('array', finish)


def _make_scalar(dtype: Any, data: Any) -> np.generic:
    return _make_array(data, dtype, ())[()]


def _make_array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _make_array(data, dtype, shape, 'F' if order == 'F' else 'C')


def _refuse_call(name: str) -> Callable[..., Any]:

    def refuse(*_: Any) -> Any:
        raise Refusal(f'Unsupported global: a call of {name}')

    return refuse


# PyTorch.


def _make_tensor(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, hooks: Any = None,
                 metadata: Any = None) -> Tensor:
    """A view of memory, inside it; that values may stand in it several times is what the budget of the file is for."""
    storage = expect(storage, StoredValues)
    size, stride = expect_sizes(size), expect_sizes(stride)
    available = len(storage.data) // storage.dtype.itemsize
    if type(offset) is not int or offset < 0 or len(size) != len(stride):
        raise Refusal('a tensor whose offset, size and strides do not belong together')
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride)) if count else offset
    if last >= available + (not count):
        raise Refusal(f'a tensor of {count} values in a memory of {available}')
    storage.budget.spend(count * storage.dtype.itemsize)
    values = storage.data.view(storage.dtype) if available else torch.empty(0, dtype=storage.dtype, device=storage.data.device)
    tensor = values.as_strided(size, stride, offset)
    return tensor.requires_grad_() if requires_grad is True and tensor.dtype.is_floating_point else tensor


def _make_tensor_of_dtype(storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, dtype: Any,
                          metadata: Any = None) -> Tensor:
    storage = expect(storage, StoredValues)
    stored = StoredValues(storage.data, expect(dtype, torch.dtype), storage.budget)
    return _make_tensor(stored, offset, size, stride, requires_grad)


def _make_parameter(data: Any, requires_grad: Any, hooks: Any = None, state: Any = None) -> torch.nn.Parameter:
    data = expect(data, Tensor).detach()
    return torch.nn.Parameter(data, requires_grad is True and (data.dtype.is_floating_point or data.dtype.is_complex))


def _make_device(kind: Any, index: Any = None) -> torch.device:
    return torch.device(expect(kind, str)) if index is None else torch.device(expect(kind, str), expect(index, int))


HISTORY = 'mmengine.logging.history_buffer.HistoryBuffer'
TABLE: dict[str, Callable[..., Any]] = {
    'collections.OrderedDict': _make_ordered_dict,
    'collections.Counter': _make_counter,
    '_codecs.encode': _encode,
    'argparse.Namespace': lambda: Namespace(),
    'builtins.bytes': lambda: b'',  # protocol 2 writes empty ones so
    'builtins.set': _make_set(set),
    'builtins.frozenset': _make_set(frozenset),
    'builtins.slice': _make_slice,
    'builtins.int': _make_number(int),
    'builtins.float': _make_number(float),
    'builtins.bool': _make_number(bool),
    'builtins.complex': _make_number(complex),
    'builtins.getattr': _get_history_method,
    'datetime.date': _make_time(datetime.date),
    'datetime.datetime': _make_time(datetime.datetime),
    'datetime.timedelta': _make_time(datetime.timedelta),
    'datetime.timezone': _make_time(datetime.timezone),
    'pathlib.PosixPath': _make_path(pathlib.PurePosixPath),
    'pathlib.PurePosixPath': _make_path(pathlib.PurePosixPath),
    'pathlib.WindowsPath': _make_path(pathlib.PureWindowsPath),
    'pathlib.PureWindowsPath': _make_path(pathlib.PureWindowsPath),
    HISTORY: lambda: Unfinished('HistoryBuffer', _finish_history),
    'numpy.dtype': _make_dtype,
    'numpy.ndarray': _refuse_call('numpy.ndarray'),
    'numpy._core.multiarray._reconstruct': _start_array,
    'numpy._core.multiarray.scalar': _make_scalar,
    'numpy._core.numeric._frombuffer': _make_array_from_buffer,
    'numpy.core.numeric._frombuffer': _make_array_from_buffer,
    'torch.Size': lambda sizes=(): torch.Size(expect_sizes(sizes)),
    'torch.device': _make_device,
    'torch._utils._rebuild_tensor': _make_tensor,
    'torch._utils._rebuild_tensor_v2': _make_tensor,
    'torch._utils._rebuild_tensor_v3': _make_tensor_of_dtype,
    'torch._utils._rebuild_parameter': _make_parameter,
    'torch._utils._rebuild_parameter_with_state': _make_parameter,
}
