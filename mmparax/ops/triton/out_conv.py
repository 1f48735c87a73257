"""Depthwise 3x3 with residual, layer scale and the shortcut.

Bytes of device memory per token and channel for s-byte numbers, ideally (each tensor once; halos from cache): forward
reads 2s (y and the shortcut), writes s. Saved for backward: y and, if it is scaled, the shortcut. Backward reads 3s (the
gradient, y, the shortcut), writes 2s (and 44 / 128 of partial sums); with the bare shortcut, whose gradient is the
output's, it reads 2s and writes s.
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


@triton.jit(do_not_specialize=['height', 'width'])
def forward_kernel(y, taps, conv_bias, layer_scale, layer_bias, shortcut, shortcut_scale, shortcut_bias, out, height, width,
                   channels, TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_C: tl.constexpr):
    tile, batch = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    has = c < channels
    sample = batch.to(tl.int64) * height * width * channels
    row, col = locate_tile(tile, width, TILE_H, TILE_W)
    total = tl.zeros((TILE_H * TILE_W, BLOCK_C), tl.float32) + load_channels(conv_bias, c, has)[None, :]
    for i in range(3):  # a loop, and unrolled inside: with all nine loads at once a program runs out of registers
        for j in tl.static_range(3):
            token, inside = locate_tokens(row + (i - 1), col + (j - 1), height, width)
            value = load_tokens(y + sample, token, inside, c, has, channels)
            total += value * load_tap(taps, 3 * i + j, c, has, channels)[None, :]
    token, inside = locate_tokens(row, col, height, width)
    residual = load_tokens(shortcut + sample, token, inside, c, has, channels)
    offset = load_channels(layer_bias, c, has)
    if shortcut_scale is not None:
        residual *= load_channels(shortcut_scale, c, has)[None, :]
        offset += load_channels(shortcut_bias, c, has)
    total = total * load_channels(layer_scale, c, has)[None, :] + offset[None, :] + residual
    store_tokens(out + sample, token, inside, c, has, channels, total)


@triton.jit(do_not_specialize=['height', 'width'])
def backward_kernel(y, taps, layer_scale, shortcut, shortcut_scale, grad_out, grad_y, grad_shortcut, sums, height, width,
                    channels, TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """Gradients of y and of the scaled shortcut and, for each tile, 11 sums over its positions: (B, tiles, 11, C).

    The sums are of gradient * y for the 9 taps, of the gradient, and of gradient * shortcut.
    """
    tile, batch = tl.program_id(0), tl.program_id(2)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    has = c < channels
    sample = batch.to(tl.int64) * height * width * channels
    row, col = locate_tile(tile, width, TILE_H, TILE_W)
    here, in_map = locate_tokens(row, col, height, width)
    value = load_tokens(y + sample, here, in_map, c, has, channels)
    sums += (batch * tl.num_programs(0) + tile).to(tl.int64) * 11 * channels
    total = tl.zeros((TILE_H * TILE_W, BLOCK_C), tl.float32)
    for i in range(3):
        for j in tl.static_range(3):
            # The output that reads this position through this tap lies in the opposite direction.
            token, inside = locate_tokens(row - (i - 1), col - (j - 1), height, width)
            grad = load_tokens(grad_out + sample, token, inside, c, has, channels)
            total += grad * load_tap(taps, 3 * i + j, c, has, channels)[None, :]
            tl.store(sums + (3 * i + j) * channels + c, tl.sum(grad * value, 0), mask=has)
    store_tokens(grad_y + sample, here, in_map, c, has, channels, total * load_channels(layer_scale, c, has)[None, :])
    grad = load_tokens(grad_out + sample, here, in_map, c, has, channels)
    tl.store(sums + 9 * channels + c, tl.sum(grad, 0), mask=has)
    if shortcut_scale is not None:
        residual = load_tokens(shortcut + sample, here, in_map, c, has, channels)
        tl.store(sums + 10 * channels + c, tl.sum(grad * residual, 0), mask=has)
        store_tokens(grad_shortcut + sample, here, in_map, c, has, channels,
                     grad * load_channels(shortcut_scale, c, has)[None, :])


class ConvScaleShortcut(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, y: Tensor, hw: tuple[int, int], conv_weight: Tensor, conv_bias: Tensor, layer_scale: Tensor,
                layer_bias: Tensor, shortcut: Tensor, shortcut_scale: Tensor | None, shortcut_bias: Tensor | None) -> Tensor:
        y, shortcut = y.contiguous(), shortcut.contiguous()
        batch, _, channels = y.shape
        out = torch.empty_like(y, dtype=torch.promote_types(y.dtype, shortcut.dtype))
        sizes = choose_tile(hw, channels, FORWARD_TILE)
        forward_kernel[make_grid(hw, channels, batch,
                                 sizes)](y, flatten_taps(conv_weight), conv_bias, layer_scale, layer_bias, shortcut,
                                         shortcut_scale, shortcut_bias, out, *hw, channels, **sizes)
        ctx.save_for_backward(y, conv_weight, conv_bias, layer_scale, layer_bias, None if shortcut_scale is None else shortcut,
                              shortcut_scale, shortcut_bias)
        ctx.hw, ctx.shortcut_dtype = hw, shortcut.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple:
        y, conv_weight, conv_bias, layer_scale, layer_bias, shortcut, shortcut_scale, shortcut_bias = ctx.saved_tensors
        batch, _, channels = y.shape
        sizes = choose_tile(ctx.hw, channels, BACKWARD_TILE)
        grid = make_grid(ctx.hw, channels, batch, sizes)
        grad_out, grad_y, needed = grad_out.contiguous(), torch.empty_like(y), ctx.needs_input_grad
        scaled = shortcut_scale is not None
        grad_shortcut = torch.empty_like(shortcut) if scaled else grad_out.to(ctx.shortcut_dtype)
        sums = allocate_sums(batch, grid[0], 11, channels, like=y)
        taps = flatten_taps(conv_weight)
        backward_kernel[grid](y, taps, layer_scale, shortcut, shortcut_scale, grad_out, grad_y, grad_shortcut if scaled else None,
                              sums, *ctx.hw, channels, **sizes)
        sums = sums.sum((0, 1))
        products, grads = sums[:9], sums[9]
        # sum(grad * (y + conv(y) + bias)), from the sums of grad * y for each tap.
        grad_scale = products[4] + (taps * products).sum(0) + conv_bias * grads
        return (grad_y if needed[0] else None, None, make_gradient(needed[2], (layer_scale * products).t(), conv_weight),
                make_gradient(needed[3], layer_scale * grads, conv_bias), make_gradient(needed[4], grad_scale, layer_scale),
                make_gradient(needed[5], grads, layer_bias), grad_shortcut if needed[6] else None,
                make_gradient(needed[7], sums[10], shortcut_scale), make_gradient(needed[8], grads, shortcut_bias))


run = ConvScaleShortcut.apply
