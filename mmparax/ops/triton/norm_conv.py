"""Scaled LayerNorm, residual, depthwise 3x3, residual and the mean over tokens.

With ``a = scale * norm_weight`` and ``b = scale * norm_bias``, u = x + a * xhat + b is made again from x and the token's
mean and 1 / std wherever a tap reads it; it never exists in memory. The residual of the convolution is in its centre tap.

Bytes of device memory per token and channel for s-byte numbers, ideally (each tensor once; halos from cache):
statistics read s; forward reads s, writes s (and 4 / 64 for the mean's partial sums); saved for backward: only x, which
the backbone has anyway, and 8 bytes per token. Backward of the convolution reads 2s (x and the gradient), writes s (and
48 / 128 of partial sums); backward of the norm reads 2s, writes s. Together 3s and 6s.
"""
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmparax.ops.triton.common import (
    BACKWARD_TILE,
    FORWARD_TILE,
    allocate_sums,
    choose_tile,
    flatten_taps,
    load_channels,
    load_tap,
    load_tokens,
    locate_tile,
    locate_tokens,
    make_gradient,
    make_grid,
    store_tokens,
)


@triton.jit
def load_rows(x, start, tokens, channels, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """ROWS whole tokens as float32, with their offsets and mask."""
    token = start + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK_C)
    offsets = token.to(tl.int64)[:, None] * channels + c[None, :]
    mask = (token < tokens)[:, None] & (c < channels)[None, :]
    return tl.load(x + offsets, mask=mask, other=0.).to(tl.float32), offsets, mask


@triton.jit(do_not_specialize=['tokens'])
def statistics_kernel(x, mean, rstd, tokens, channels, eps, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Mean and 1 / std of each token."""
    start = tl.program_id(0) * ROWS
    value, _, mask = load_rows(x, start, tokens, channels, ROWS, BLOCK_C)
    average = tl.sum(value, 1) / channels
    centred = tl.where(mask, value - average[:, None], 0.)
    variance = tl.sum(centred * centred, 1) / channels
    token = start + tl.arange(0, ROWS)
    tl.store(mean + token, average, mask=token < tokens)
    tl.store(rstd + token, 1. / tl.sqrt(variance + eps), mask=token < tokens)


@triton.jit
def load_normalised(x, mean, rstd, token, inside, c, has, channels):
    """x and xhat = (x - mean) * rstd of tokens of one sample, zero outside of the map."""
    value = load_tokens(x, token, inside, c, has, channels)
    average = tl.load(mean + token, mask=inside, other=0.)
    inverse = tl.load(rstd + token, mask=inside, other=0.)
    return value, (value - average[:, None]) * inverse[:, None]


@triton.jit(do_not_specialize=['height', 'width'])
def forward_kernel(x, mean, rstd, scale, norm_weight, norm_bias, taps, conv_bias, out, out_mean, height, width, channels,
                   TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """The output and, for each tile, its share of the mean: (B, tiles, C)."""
    tile, batch = tl.program_id(0), tl.program_id(2)
    tokens = height * width
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    has = c < channels
    first = batch.to(tl.int64) * tokens
    factor = load_channels(scale, c, has)
    gain = (factor * load_channels(norm_weight, c, has))[None, :]
    offset = (factor * load_channels(norm_bias, c, has))[None, :]
    row, col = locate_tile(tile, width, TILE_H, TILE_W)
    total = tl.zeros((TILE_H * TILE_W, BLOCK_C), tl.float32) + load_channels(conv_bias, c, has)[None, :]
    for i in range(3):  # a loop, and unrolled inside: with all nine loads at once a program runs out of registers
        for j in tl.static_range(3):
            token, inside = locate_tokens(row + (i - 1), col + (j - 1), height, width)
            value, xhat = load_normalised(x + first * channels, mean + first, rstd + first, token, inside, c, has, channels)
            u = tl.where(inside[:, None], value + xhat * gain + offset, 0.)
            total += u * load_tap(taps, 3 * i + j, c, has, channels)[None, :]
    token, inside = locate_tokens(row, col, height, width)
    store_tokens(out + first * channels, token, inside, c, has, channels, total)
    share = tl.sum(tl.where(inside[:, None], total, 0.), 0) / tokens
    tl.store(out_mean + (batch * tl.num_programs(0) + tile).to(tl.int64) * channels + c, share, mask=has)


@triton.jit(do_not_specialize=['height', 'width'])
def conv_backward_kernel(x, mean, rstd, scale, norm_weight, norm_bias, taps, grad_out, grad_mean, grad_u, sums, height, width,
                         channels, TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """Gradient of u and, for each tile, 12 sums over its positions: (B, tiles, 12, C).

    The sums are of gradient * u for the 9 taps, of the gradient, of grad_u and of grad_u * xhat.
    """
    tile, batch = tl.program_id(0), tl.program_id(2)
    tokens = height * width
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    has = c < channels
    first = batch.to(tl.int64) * tokens
    factor = load_channels(scale, c, has)
    gain = (factor * load_channels(norm_weight, c, has))[None, :]
    offset = (factor * load_channels(norm_bias, c, has))[None, :]
    from_mean = load_channels(grad_mean + batch * channels, c, has)[None, :] / tokens
    row, col = locate_tile(tile, width, TILE_H, TILE_W)
    here, in_map = locate_tokens(row, col, height, width)
    value, xhat = load_normalised(x + first * channels, mean + first, rstd + first, here, in_map, c, has, channels)
    u = tl.where(in_map[:, None], value + xhat * gain + offset, 0.)
    sums += (batch * tl.num_programs(0) + tile).to(tl.int64) * 12 * channels
    total = tl.zeros((TILE_H * TILE_W, BLOCK_C), tl.float32)
    for i in range(3):
        for j in tl.static_range(3):
            # The output that reads this position through this tap lies in the opposite direction.
            token, inside = locate_tokens(row - (i - 1), col - (j - 1), height, width)
            grad = load_tokens(grad_out + first * channels, token, inside, c, has, channels)
            grad = tl.where(inside[:, None], grad + from_mean, 0.)
            total += grad * load_tap(taps, 3 * i + j, c, has, channels)[None, :]
            tl.store(sums + (3 * i + j) * channels + c, tl.sum(grad * u, 0), mask=has)
    grad = load_tokens(grad_out + first * channels, here, in_map, c, has, channels)
    grad = tl.where(in_map[:, None], grad + from_mean, 0.)
    tl.store(sums + 9 * channels + c, tl.sum(grad, 0), mask=has)
    store_tokens(grad_u + first * channels, here, in_map, c, has, channels, total)
    total = tl.where(in_map[:, None], total, 0.)
    tl.store(sums + 10 * channels + c, tl.sum(total, 0), mask=has)
    tl.store(sums + 11 * channels + c, tl.sum(total * xhat, 0), mask=has)


@triton.jit(do_not_specialize=['tokens'])
def norm_backward_kernel(x, mean, rstd, scale, norm_weight, grad, tokens, channels, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Turn the gradient of u into that of x, in place."""
    start = tl.program_id(0) * ROWS
    value, offsets, mask = load_rows(x, start, tokens, channels, ROWS, BLOCK_C)
    grad_u = tl.load(grad + offsets, mask=mask, other=0.).to(tl.float32)
    token = start + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK_C)
    average = tl.load(mean + token, mask=token < tokens, other=0.)[:, None]
    inverse = tl.load(rstd + token, mask=token < tokens, other=0.)[:, None]
    gain = load_channels(scale, c, c < channels) * load_channels(norm_weight, c, c < channels)
    xhat = tl.where(mask, (value - average) * inverse, 0.)
    grad_xhat = grad_u * gain[None, :]
    mean_grad = (tl.sum(grad_xhat, 1) / channels)[:, None]
    mean_product = (tl.sum(grad_xhat * xhat, 1) / channels)[:, None]
    result = grad_u + inverse * (grad_xhat - mean_grad - xhat * mean_product)
    tl.store(grad + offsets, result.to(grad.dtype.element_ty), mask=mask)


def choose_rows(x: Tensor) -> tuple[tuple[int, ...], dict]:
    """Grid and constants of the kernels over whole tokens."""
    block = triton.next_power_of_2(x.shape[-1])
    rows = max(1, 4096 // block)
    return (triton.cdiv(x.shape[0] * x.shape[1], rows), ), dict(ROWS=rows, BLOCK_C=block)


class ScaledNormConv(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, hw: tuple[int, int], scale: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float,
                conv_weight: Tensor, conv_bias: Tensor, out_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        batch, tokens, channels = x.shape
        mean, rstd = allocate_sums(2, batch * tokens, like=x)
        grid, sizes = choose_rows(x)
        statistics_kernel[grid](x, mean, rstd, batch * tokens, channels, eps, **sizes)
        sizes = choose_tile(hw, channels, FORWARD_TILE)
        grid = make_grid(hw, channels, batch, sizes)
        out = torch.empty_like(x, dtype=out_dtype)
        shares = allocate_sums(batch, grid[0], channels, like=x)
        forward_kernel[grid](x, mean, rstd, scale, norm_weight, norm_bias, flatten_taps(conv_weight), conv_bias, out, shares, *hw,
                             channels, **sizes)
        ctx.save_for_backward(x, mean, rstd, scale, norm_weight, norm_bias, conv_weight, conv_bias)
        ctx.hw = hw
        return out, shares.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_mean: Tensor) -> tuple:
        x, mean, rstd, scale, norm_weight, norm_bias, conv_weight, conv_bias = ctx.saved_tensors
        batch, tokens, channels = x.shape
        sizes = choose_tile(ctx.hw, channels, BACKWARD_TILE)
        grid = make_grid(ctx.hw, channels, batch, sizes)
        grad = torch.empty_like(x)
        sums = allocate_sums(batch, grid[0], 12, channels, like=x)
        conv_backward_kernel[grid](x, mean, rstd, scale, norm_weight, norm_bias, flatten_taps(conv_weight), grad_out.contiguous(),
                                   grad_mean.contiguous(), grad, sums, *ctx.hw, channels, **sizes)
        if ctx.needs_input_grad[0]:
            grid, sizes = choose_rows(x)
            norm_backward_kernel[grid](x, mean, rstd, scale, norm_weight, grad, batch * tokens, channels, **sizes)
        sums = sums.sum((0, 1))
        needed = ctx.needs_input_grad
        return (grad if needed[0] else None, None, make_gradient(needed[2], norm_weight * sums[11] + norm_bias * sums[10],
                                                                 scale), make_gradient(needed[3], scale * sums[11], norm_weight),
                make_gradient(needed[4], scale * sums[10],
                              norm_bias), None, make_gradient(needed[6], sums[:9].t(),
                                                              conv_weight), make_gradient(needed[7], sums[9], conv_bias), None)


run = ScaledNormConv.apply
