"""Reads pickles of plain data, tensors and NumPy arrays without constructing anything that is not in a table of its own.

``pickletools`` of the standard library splits a pickle into its operations; the machine here carries out those that plain data
need. Every name of a class or function in the file is looked up in :data:`TABLE` or among the classes that the user has
allowed by ``torch.serialization.add_safe_globals``; what stands there checks its arguments. Nothing of NumPy's or PyTorch's own
reconstruction runs, so no argument from a file reaches memory unchecked. Nothing process-wide is changed.
"""
import datetime
import itertools
import math
import pathlib
import pickle
import pickletools
import re
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

MAX_OPERATIONS = 5_000_000  # of one pickle; a checkpoint with 5,000 tensors and an optimizer has 300,000
MAX_DEPTH = 100  # of lists in lists
MAX_ENTRIES = 10_000_000  # counted as often as they are referred to
MAX_HISTORY = 10_000_000  # values that a HistoryBuffer may keep
STATISTICS = ('min', 'max', 'mean', 'current')
KEYS = (str, int, float, bool, bytes, type(None), torch.dtype, torch.device)  # hashed without running code of the file
DTYPE_CODE = re.compile(r'(b1|[iu][1248]|f[248]|c8|c16|[US]\d{1,6})\Z')
STORAGES = {
    f'{name}Storage': dtype
    for name, dtype in dict(Double=torch.float64, Float=torch.float32, Half=torch.float16, BFloat16=torch.bfloat16,
                            Long=torch.int64, Int=torch.int32, Short=torch.int16, Char=torch.int8, Byte=torch.uint8,
                            Bool=torch.bool, ComplexDouble=torch.complex128, ComplexFloat=torch.complex64).items()
}
STORAGES['UntypedStorage'] = torch.uint8
OWN_OF_TORCH = ('torch.nested.', 'torch.distributed.')  # PyTorch puts classes of its own on the list when they are imported
OTHER_TENSORS = {
    '_rebuild_sparse_tensor': 'sparse', '_rebuild_qtensor': 'quantised',
    '_rebuild_meta_tensor_no_storage': 'without values (meta)', '_rebuild_wrapper_subclass': 'of a subclass',
    '_rebuild_nested_tensor': 'nested', '_rebuild_from_type_v2': 'of a subclass',
    '_rebuild_device_tensor_from_numpy': 'of a device without storage'
}


class Refusal(pickle.UnpicklingError):
    """A pickle that holds what is not taken."""


@dataclass(frozen=True)
class Function:
    """What a name in a file stands for: called with the arguments of the file, it checks them."""
    name: str
    call: Callable[..., Any]


@dataclass(frozen=True)
class StorageType:
    """The type of values of a tensor's memory."""
    dtype: torch.dtype


@dataclass(frozen=True)
class Allowed:
    """A class or function that the user allowed on purpose."""
    name: str
    target: Any


@dataclass(frozen=True)
class HistoryMethod:
    """One of the four methods with which mmengine pickles every HistoryBuffer."""
    name: str


@dataclass
class Unfinished:
    """An object whose state follows in a BUILD operation, which puts the finished one in its place."""
    kind: str
    finish: Callable[[Any], Any]
    memo_keys: list[int] = field(default_factory=list)


@dataclass
class Budget:
    """Bytes that all tensors of a file together may still have: many views of one memory become many copies later."""
    left: int

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Refusal('tensors that are together many times as large as the file')


@dataclass(frozen=True)
class StoredValues:
    """Memory of tensors.

    Attributes:
        data: (bytes, ) uint8.
        dtype: of its values.
        budget: of the file.
    """
    data: Tensor
    dtype: torch.dtype
    budget: Budget


LoadStorage = Callable[[Any], StoredValues]  # of a persistent id


def unpickle(file: IO[bytes], load_storage: LoadStorage) -> Any:
    """Read one pickle from the current position of a file.

    Args:
        file: must not give more bytes than there are when it is asked for more, as ``io.BytesIO`` and ``mmap`` do not.
        load_storage: gives the memory of a tensor for the persistent id that stands in the pickle.

    Raises:
        UnpicklingError: if it holds anything else than plain data, tensors and arrays, or is damaged.
    """
    machine = Machine(load_storage)
    try:
        content = machine.run(file)
    except pickle.UnpicklingError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError, AssertionError,
            RecursionError) as error:
        raise Refusal(f'{type(error).__name__}: {error}') from error
    check_plain(content)
    return content


class Machine:
    """The stack machine of pickles, as far as plain data need it."""

    def __init__(self, load_storage: LoadStorage):
        self.load_storage = load_storage
        self.allowed = dict(_list_allowed())
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: IO[bytes]) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MAX_OPERATIONS:
                raise Refusal(f'more than {MAX_OPERATIONS} operations')
            if opcode.name == 'STOP':
                return self.pop()
            if opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name]())
            elif opcode.name in VALUES:
                self.stack.append(argument)
            elif opcode.name not in OPERATIONS:
                raise Refusal(f'Unsupported operand {opcode.name}')
            else:
                OPERATIONS[opcode.name](self, argument)
        raise Refusal('it has no end')

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise Refusal('its stack is empty')
        return self.stack.pop()

    def peek(self) -> Any:
        if not self.stack:
            raise Refusal('its stack is empty')
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise Refusal('a mark is missing')
        start = self.marks.pop()
        entries = self.stack[start:]
        del self.stack[start:]
        return entries

    def remember(self, number: Any) -> None:
        value = self.peek()
        if isinstance(value, Unfinished):
            value.memo_keys.append(number)
        self.memo[number] = value

    def recall(self, number: int) -> None:
        self.stack.append(self.memo[number])

    def make_tuple(self, count: int) -> None:
        entries = [self.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(entries))

    def extend(self, entries: Sequence[Any]) -> None:
        target = self.peek()
        if type(target) is list:
            target.extend(entries)
        elif type(target) is set:
            target.update(map(check_key, entries))
        else:
            raise Refusal(f'entries for a {type(target).__name__}')

    def set_items(self, entries: Sequence[Any]) -> None:
        target = self.peek()
        if type(target) not in (dict, OrderedDict) or len(entries) % 2:
            raise Refusal(f'items for a {type(target).__name__}')
        for name, value in zip(entries[::2], entries[1::2]):
            target[check_key(name)] = value

    def find(self, module: Any, name: Any) -> None:
        """Push what ``module.name`` stands for."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refusal('a name that is no text')
        module = {'__builtin__': 'builtins', 'numpy.core.multiarray': 'numpy._core.multiarray'}.get(module, module)
        full = f'{module}.{name}'
        if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
            self.stack.append(getattr(torch, name))
        elif module in ('torch', 'torch.storage') and name in STORAGES:
            self.stack.append(StorageType(STORAGES[name]))
        elif full in TABLE:
            self.stack.append(Function(full, TABLE[full]))
        elif full in self.allowed:
            self.stack.append(Allowed(full, self.allowed[full]))
        elif module == 'torch._utils' and name in OTHER_TENSORS:
            raise Refusal(f'a tensor that is {OTHER_TENSORS[name]}: only dense tensors of values are read')
        else:
            raise Refusal(f'Unsupported global: {full}')

    def call(self, new: bool = False) -> None:
        """REDUCE and NEWOBJ: call a function with a tuple of arguments."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple):
            raise Refusal('arguments that are no tuple')
        if isinstance(function, Allowed):
            target = function.target
            self.stack.append(target.__new__(target, *arguments) if new else target(*arguments))
        elif isinstance(function, Function):
            self.stack.append(function.call(*arguments))
        else:
            raise Refusal(f'a call of a {type(function).__name__}')

    def build(self, _: Any) -> None:
        """BUILD: give the object below its state."""
        state, target = self.pop(), self.pop()
        if isinstance(target, Unfinished):
            finished = target.finish(state)
            for number in target.memo_keys:
                if self.memo.get(number) is target:
                    self.memo[number] = finished
            self.stack.append(finished)
            return
        if type(target) is OrderedDict:
            _set_metadata(target, state)
        elif type(target) is Namespace:
            _set_attributes(target, state)
        elif type(target) in self.allowed.values():
            _set_state(target, state)
        else:
            raise Refusal(f'Unsupported class: state for a {type(target).__name__}')
        self.stack.append(target)


def _list_allowed() -> Iterator[tuple[str, Any]]:
    """(name in a file, object) of what the user allowed; what is in the table stays as it is there."""
    for entry in torch.serialization.get_safe_globals():
        target = entry[0] if isinstance(entry, tuple) else entry
        if str(getattr(target, '__module__', '')).startswith(OWN_OF_TORCH):
            continue
        if isinstance(entry, tuple):
            yield entry[1], entry[0]
        elif hasattr(entry, '__module__') and hasattr(entry, '__qualname__'):
            yield f'{entry.__module__}.{entry.__qualname__}', entry


# Operations that push a new object, a value that stands in the file, or do more.
CONSTANTS: dict[str, Callable[[], Any]] = {
    'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False, 'EMPTY_TUPLE': tuple, 'EMPTY_LIST': list,
    'EMPTY_DICT': dict, 'EMPTY_SET': set
}
VALUES = ('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES',
          'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8', 'BINSTRING', 'SHORT_BINSTRING')
OPERATIONS: dict[str, Callable[[Machine, Any], Any]] = {
    'PROTO': lambda machine, _: None,
    'FRAME': lambda machine, _: None,
    'MARK': lambda machine, _: machine.marks.append(len(machine.stack)),
    'POP': lambda machine, _: machine.pop(),
    'POP_MARK': lambda machine, _: machine.pop_to_mark(),
    'TUPLE': lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    'TUPLE1': lambda machine, _: machine.make_tuple(1),
    'TUPLE2': lambda machine, _: machine.make_tuple(2),
    'TUPLE3': lambda machine, _: machine.make_tuple(3),
    'LIST': lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    'FROZENSET': lambda machine, _: machine.stack.append(frozenset(map(check_key, machine.pop_to_mark()))),
    'APPEND': lambda machine, _: machine.extend([machine.pop()]),
    'APPENDS': lambda machine, _: machine.extend(machine.pop_to_mark()),
    'ADDITEMS': lambda machine, _: machine.extend(machine.pop_to_mark()),
    'SETITEM': lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    'SETITEMS': lambda machine, _: machine.set_items(machine.pop_to_mark()),
    'BINPUT': Machine.remember,
    'LONG_BINPUT': Machine.remember,
    'MEMOIZE': lambda machine, _: machine.remember(len(machine.memo)),
    'BINGET': Machine.recall,
    'LONG_BINGET': Machine.recall,
    'GLOBAL': lambda machine, names: machine.find(*names.split(' ', 1)),
    'STACK_GLOBAL': lambda machine, _: machine.find(*[machine.pop(), machine.pop()][::-1]),
    'REDUCE': lambda machine, _: machine.call(),
    'NEWOBJ': lambda machine, _: machine.call(new=True),
    'BUILD': Machine.build,
    'BINPERSID': lambda machine, _: machine.stack.append(machine.load_storage(machine.pop())),
}

# ---- checks of arguments ----


def check_key(value: Any) -> Any:
    """Return a key of a dict or entry of a set if hashing it is safe: deeply nested tuples would overflow C's stack."""
    if isinstance(value, KEYS) or type(value) is tuple and all(isinstance(entry, KEYS) for entry in value):
        return value
    raise Refusal(f'a key that is a {type(value).__name__}')


def expect(value: Any, *types: type) -> Any:
    """Return ``value`` if its type is exactly one of ``types``."""
    if type(value) not in types:
        raise Refusal(f'a {type(value).__name__} where a {types[0].__name__} belongs')
    return value


def expect_sizes(value: Any) -> tuple[int, ...]:
    """Return a tuple of non-negative integers, at most 64 of them."""
    sizes = tuple(expect(value, tuple, list, torch.Size))
    if len(sizes) > 64 or any(type(size) is not int or not 0 <= size < 2**62 for size in sizes):
        raise Refusal('sizes that are not non-negative integers')
    return sizes


def check_plain(content: Any) -> None:
    """Check that nothing unfinished is left, that nothing contains itself, and depth and number of entries.

    Raises:
        Refusal: naming what was found.
    """
    # Depth first, without recursion: (container, its entries that are still to visit).
    counts: dict[int, int] = {}  # id of a finished container -> entries in it and below
    open_: dict[int, int] = {}  # id of a container that is being visited -> entries so far
    path: list[tuple[Any, Iterator[Any]]] = []
    keep: list[Any] = []  # ids stay those of living objects
    pending: Any = content
    while True:
        total = 1
        children = _list_entries(pending)
        if children is not None and id(pending) not in counts:
            if id(pending) in open_:
                raise Refusal('a container that contains itself')
            if len(path) >= MAX_DEPTH:
                raise Refusal(f'more than {MAX_DEPTH} containers in each other')
            open_[id(pending)] = 1
            path.append((pending, children))
        else:
            total = counts.get(id(pending), 1)
            if path:
                open_[id(path[-1][0])] += total
        while path:
            owner, rest = path[-1]
            if open_[id(owner)] > MAX_ENTRIES:
                raise Refusal(f'more than {MAX_ENTRIES} entries')
            try:
                pending = next(rest)
                break
            except StopIteration:
                path.pop()
                counts[id(owner)] = open_.pop(id(owner))
                keep.append(owner)
                if path:
                    open_[id(path[-1][0])] += counts[id(owner)]
        else:
            return


def _list_entries(value: Any) -> Iterator[Any] | None:
    """The entries of a container; None for a value."""
    if isinstance(value, (Unfinished, Function, StorageType, StoredValues, HistoryMethod, Allowed)):
        raise Refusal(f'a {getattr(value, "name", type(value).__name__)} that is left over')
    if isinstance(value, Mapping):
        metadata = getattr(value, '_metadata', None)
        return itertools.chain(value.values(), () if metadata is None else (metadata, ))
    if type(value) is Namespace:
        return iter(list(vars(value).values()))
    if isinstance(value, (list, tuple)):
        return iter(value)
    return None


# ---- what names in a file stand for ----


def _make_ordered_dict(entries: Any = ()) -> OrderedDict:
    made: OrderedDict = OrderedDict()
    for entry in expect(entries, tuple, list):
        name, value = expect(entry, tuple, list)
        made[check_key(name)] = value
    return made


def _set_metadata(target: OrderedDict, state: Any) -> None:
    """A state dict of a module keeps versions by module name in this attribute."""
    metadata = expect(state, dict).get('_metadata')
    if set(state) != {'_metadata'} or not isinstance(metadata, dict) or not all(
            isinstance(name, str) and isinstance(entry, dict) for name, entry in metadata.items()):
        raise Refusal('attributes of an OrderedDict other than versions of modules')
    target._metadata = metadata  # type: ignore[attr-defined]


def _set_attributes(target: Namespace, state: Any) -> None:
    for name, value in expect(state, dict).items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith('__'):
            raise Refusal(f'an attribute called {name!r}')
        setattr(target, name, value)


def _set_state(target: Any, state: Any) -> None:
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
    """A view of memory, inside it and without an overlap of its own values."""
    storage = expect(storage, StoredValues)
    size, stride = expect_sizes(size), expect_sizes(stride)
    available = len(storage.data) // storage.dtype.itemsize
    if type(offset) is not int or offset < 0 or len(size) != len(stride):
        raise Refusal('a tensor whose offset, size and strides do not belong together')
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride)) if count else offset
    if count > available or last >= available + (not count):
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
