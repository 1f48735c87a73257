"""Checks of what the operations are called with: kernels take pointers, and trust shapes, types and devices."""
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmparax.errors import ParameterError
from mmparax.ops.token_maps import HW

SINGLE, DOUBLE = (torch.float16, torch.bfloat16, torch.float32), (torch.float64, )


def is_traced() -> bool:
    """Whether a graph is being recorded: sizes may be symbols then, and no kernel of ours runs."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def check_map(name: str, tokens: Tensor, hw: HW) -> tuple[int, int, int]:
    """Return (B, H*W, C) of tokens.

    Raises:
        ParameterError: if they are not a map of size ``hw`` of at least one image, or no floating-point numbers.
    """
    if is_traced():
        return tokens.shape
    if tokens.ndim != 3 or tokens.dtype not in SINGLE + DOUBLE:
        raise ParameterError(name, (tokens.dtype, tuple(tokens.shape)), 'it must be tokens (B, H*W, C) in floating point')
    batch, count, channels = tokens.shape
    if len(hw) != 2 or hw[0] * hw[1] != count:
        raise ParameterError('hw', hw, f'{name} has {count} tokens, which are no map of that size')
    if not batch or not count or not channels:
        raise ParameterError(name, tuple(tokens.shape), 'there must be at least one image, token and channel',
                             'Leave empty batches out.')
    return batch, count, channels


def check_tensors(like: Tensor, expected: Mapping[str, tuple[Tensor | None, Sequence[int]]]) -> None:
    """Check the other arguments of an operation.

    Args:
        like: the tokens.
        expected: name -> (tensor or None, the shape that it must have).

    Raises:
        ParameterError: naming a tensor of another shape, on another device, or in double precision where the tokens are not, or
            the other way round.
    """
    if is_traced():
        return
    types = DOUBLE if like.dtype in DOUBLE else SINGLE
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != tuple(shape):
            raise ParameterError(name, tuple(tensor.shape),
                                 f'with tokens of the shape {tuple(like.shape)} it must be {tuple(shape)}')
        if tensor.device != like.device:
            raise ParameterError(name, str(tensor.device), f'the tokens are on {like.device}', 'Move all to one device.')
        if tensor.dtype not in types:
            raise ParameterError(name, tensor.dtype, f'the tokens are {like.dtype}', 'Use one precision for all.')
