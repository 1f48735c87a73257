"""Calls the compiled operations with tensors."""
import ctypes
from typing import Any

import torch
from torch import Tensor

from mmparax.errors import ParameterError
from mmparax.ops.cpu.build import load_library
from mmparax.ops.cpu.signatures import FUNCTIONS, READ, READ_LIST, WRITTEN, WRITTEN_LIST, Kind
from mmparax.ops.token_maps import HW

LANE_BYTES = 64  # of the channels of one task


def check_tokens(tokens: Tensor, hw: HW) -> Tensor:
    """Return contiguous tokens; raise ParameterError unless they are a map of size ``hw``, on which the operations rely."""
    if tokens.shape[1] != hw[0] * hw[1]:
        raise ParameterError('hw', hw, f'these are {tokens.shape[1]} tokens, which are no map of that size')
    return tokens.contiguous()


def count_groups(channels: int, dtype: torch.dtype) -> int:
    """Groups of channels in an image: each is a task."""
    return -(-channels * dtype.itemsize // LANE_BYTES)


def measure_strips(like: Tensor, hw: HW, maps: int) -> int:
    """Numbers of scratch memory that a thread needs for strips of rows of some maps."""
    return load_library(like.dtype).functions.strip_room(*hw, maps)


def measure_maps(like: Tensor, hw: HW, maps: int, size: int) -> int:
    """Numbers of scratch memory that a thread needs for some whole maps, and kernels up to ``size``."""
    return load_library(like.dtype).functions.whole_room(*hw, maps, size)


def call_on_tasks(name: str, like: Tensor, room: int, **arguments: Any) -> None:
    """Call an operation, with ``room`` numbers of scratch memory for each of its threads; see :func:`call`."""
    threads = torch.get_num_threads()
    tasks = arguments['batch'] * count_groups(arguments['channels'], like.dtype)
    scratch = like.new_empty(min(threads, tasks) * room)
    call(name, like, **arguments, scratch=scratch, room=room, threads=threads)


def call(name: str, like: Tensor, **arguments: Any) -> None:
    """Call a function of the table in ``signatures.py`` with all of its arguments, for numbers of the type of ``like``.

    Tensors and lists of them become pointers. What is read is converted first where it must be; what is written must be
    contiguous and of that type.
    """
    expected, held = FUNCTIONS[name].arguments, []
    if arguments.keys() != expected.keys():
        raise TypeError(f'{name} takes {", ".join(expected)}; it was given {", ".join(arguments)}')

    def point_to(tensor: Tensor, argument: str, kind: Kind) -> int:
        if kind in (READ, READ_LIST):
            tensor = tensor.to(like.dtype).contiguous()
        elif tensor.dtype != like.dtype or not tensor.is_contiguous():
            raise TypeError(f'{name} writes {argument}, which must be contiguous and {like.dtype}')
        held.append(tensor)  # a copy must live as long as the call
        return tensor.data_ptr()

    def convert(argument: str, kind: Kind) -> Any:
        value = arguments[argument]
        if value is None:
            return None
        if kind in (READ_LIST, WRITTEN_LIST):
            return (ctypes.c_void_p * len(value))(*(point_to(each, argument, kind) for each in value))
        return point_to(value, argument, kind) if kind in (READ, WRITTEN) else value

    getattr(load_library(like.dtype).functions, name)(*(convert(*each) for each in expected.items()))
