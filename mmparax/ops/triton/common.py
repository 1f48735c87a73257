"""What the kernels share: tiles of a token map and blocks of channels.

A program of a convolution works on TILE_H x TILE_W positions and BLOCK_C channels: channels are contiguous in memory,
so a warp reads whole lines, and the halo of a two-dimensional tile is small enough to stay in the L1 cache, which
serves the other taps. The grid is (tiles, blocks of channels, B).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def locate_tile(tile, width, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """Rows and columns of a tile's positions, which may lie outside the map."""
    tiles_wide = tl.cdiv(width, TILE_W)
    position = tl.arange(0, TILE_H * TILE_W)
    row = tile // tiles_wide * TILE_H + position // TILE_W
    col = tile % tiles_wide * TILE_W + position % TILE_W
    return row, col


@triton.jit
def locate_tokens(row, col, height, width):
    """Index of the token at each position, and whether the map has it."""
    return row * width + col, (row >= 0) & (row < height) & (col >= 0) & (col < width)


@triton.jit
def load_tokens(sample, token, valid, c, has, channels):
    """Channels ``c`` of tokens of one sample as float32, (tokens, channels), zero where not ``valid`` or not ``has``."""
    offsets = token[:, None] * channels + c[None, :]
    return tl.load(sample + offsets, mask=valid[:, None] & has[None, :], other=0.).to(tl.float32)


@triton.jit
def store_tokens(sample, token, valid, c, has, channels, value):
    offsets = token[:, None] * channels + c[None, :]
    tl.store(sample + offsets, value.to(sample.dtype.element_ty), mask=valid[:, None] & has[None, :])


@triton.jit
def load_channels(vector, c, has):
    return tl.load(vector + c, mask=has, other=0.).to(tl.float32)


@triton.jit
def load_tap(taps, tap, c, has, channels):
    """Channels ``c`` of one tap of ``y + depthwise3x3(y)``: the residual is one more in the centre."""
    return load_channels(taps + tap * channels, c, has) + tl.where(tap == 4, 1., 0.)


# The variable TRITON_INTERPRET is read where a kernel is defined; later changes have no effect.
INTERPRETED = not isinstance(locate_tile, triton.JITFunction)

FORWARD_TILE = 8, 8, 64  # height, width, channels
BACKWARD_TILE = 8, 16, 32  # more positions: fewer partial sums


def choose_tile(hw: tuple[int, int], channels: int, tile: tuple[int, int, int]) -> dict:
    """Constants of a kernel: a tile's height, width and channels, at most those given, and warps.

    Eight warps leave each thread 16 numbers of a tile, so that two programs or more fit on a multiprocessor.
    """
    height, width, block = (min(largest, triton.next_power_of_2(size)) for largest, size in zip(tile, (*hw, channels)))
    return dict(TILE_H=height, TILE_W=width, BLOCK_C=block, num_warps=8)


def make_grid(hw: tuple[int, int], channels: int, batch: int, sizes: dict) -> tuple[int, ...]:
    """Programs for tiles, blocks of channels and samples."""
    tiles = triton.cdiv(hw[0], sizes['TILE_H']) * triton.cdiv(hw[1], sizes['TILE_W'])
    return tiles, triton.cdiv(channels, sizes['BLOCK_C']), batch


def flatten_taps(conv_weight: Tensor) -> Tensor:
    """Static kernels (C, 1, 3, 3) as contiguous (9, C): a program reads a tap of neighbouring channels at once."""
    return conv_weight.flatten(1).t().contiguous()


def make_gradient(needed: bool, value: Tensor, like: Tensor) -> Tensor | None:
    """The gradient of parameter ``like``, in memory of its own (optimizers change it in place), or None if not ``needed``."""
    return value.reshape(like.shape).to(like.dtype, copy=True, memory_format=torch.contiguous_format) if needed else None


def allocate_sums(*shape: int, like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)
