"""Reads pickles of plain data, tensors and NumPy arrays without constructing anything that is not in a table of its own.

``pickletools`` of the standard library splits a pickle into its operations; the machine here carries out those that plain data
need. Every name of a class or function in the file is looked up in :mod:`mmparax.weights.pickle_table` or among the classes that
the user has allowed by ``torch.serialization.add_safe_globals``; what stands there checks its arguments. Nothing of NumPy's or
PyTorch's own reconstruction runs, so no argument from a file reaches memory unchecked. Nothing process-wide is changed.
"""
import itertools
import pickle
import pickletools
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import torch

from mmparax.weights.pickle_table import TABLE, set_attributes, set_metadata, set_state
from mmparax.weights.pickle_values import (
    Allowed,
    Function,
    HistoryMethod,
    Refusal,
    StorageType,
    StoredValues,
    Unfinished,
    check_key,
)

MAX_OPERATIONS = 5_000_000  # of one pickle; a checkpoint with 5,000 tensors and an optimizer has 300,000
MAX_DEPTH = 100  # of lists in lists
MAX_ENTRIES = 10_000_000  # counted as often as they are referred to
STORAGES = {
    f'{name}Storage': dtype
    for name, dtype in dict(Double=torch.float64, Float=torch.float32, Half=torch.float16, BFloat16=torch.bfloat16,
                            Long=torch.int64, Int=torch.int32, Short=torch.int16, Char=torch.int8, Byte=torch.uint8,
                            Bool=torch.bool, ComplexDouble=torch.complex128, ComplexFloat=torch.complex64).items()
}
STORAGES['UntypedStorage'] = torch.uint8
OWN_OF_TORCH = ('torch.nested.', 'torch.distributed.', 'torch._')  # PyTorch puts its own there when it is imported
OTHER_TENSORS = {
    '_rebuild_sparse_tensor': 'sparse', '_rebuild_qtensor': 'quantised',
    '_rebuild_meta_tensor_no_storage': 'without values (meta)', '_rebuild_wrapper_subclass': 'of a subclass',
    '_rebuild_nested_tensor': 'nested', '_rebuild_from_type_v2': 'of a subclass',
    '_rebuild_device_tensor_from_numpy': 'of a device without storage'
}

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
            set_metadata(target, state)
        elif type(target) is Namespace:
            set_attributes(target, state)
        elif type(target) in self.allowed.values():
            set_state(target, state)
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
