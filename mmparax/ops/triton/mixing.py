"""Dynamic depthwise convolutions, one launch each, and their aggregation at each position, one launch.

A convolution also writes the source of the next one, ``a * z + b * y``: a tap then is one read, not two. Both gradients
of a convolution need the output's gradient at the same shifted positions, so one kernel computes both.

Bytes of device memory per token and latent channel for s-byte numbers and n convolutions in sequence, ideally (each
tensor once; halos from cache): the convolutions read ns, and (n - 1)s of z for the mixes, and write (2n - 1)s; the
aggregation reads ns, writes s. Saved for backward: z and the n outputs, (n + 1)s, and 4 bytes per token (z alone where
nothing else reads the outputs). Backward of the aggregation reads (n + 1)s, writes ns (and 4n / 32 of partial sums).
Backward of the convolutions reads ns of gradients, (4n - 3)s of z, outputs and gradients so far, and writes (2n - 1)s
(and 4 / 128 per tap of partial sums). With n = 3: 14s forward, 24s backward. The taps, 83 for (3, 5, 7), come from the
L1 cache: 83s of reads and 83 multiply-adds per channel and token, twice as many multiply-adds backward.
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
    load_channels,
    load_tokens,
    locate_tile,
    locate_tokens,
    make_gradient,
    make_grid,
    store_tokens,
)


@triton.jit(do_not_specialize=['first_tap', 'num_taps', 'first_mix', 'height', 'width'])
def conv_kernel(source, taps, out, z, mix, mixed, first_tap, num_taps, first_mix, height, width, channels, SIZE: tl.constexpr,
                TILE_H: tl.constexpr, TILE_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """``out = conv(source)``; where ``mixed`` is given, also the next source, mix[0] * z + mix[1] * out.

    Without ``z`` the next source is mix[0] * out. ``taps`` are (B, num_taps, C), those of this kernel from ``first_tap``.
    """
    tile, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    has = c < channels
    sample = batch * height * width * channels
    taps += (batch * num_taps + first_tap) * channels
    row, col = locate_tile(tile, width, TILE_H, TILE_W)
    total = tl.zeros((TILE_H * TILE_W, BLOCK_C), tl.float32)
    for i in range(SIZE):
        for j in tl.static_range(SIZE):
            token, inside = locate_tokens(row + (i - SIZE // 2), col + (j - SIZE // 2), height, width)
            value = load_tokens(source + sample, token, inside, c, has, channels)
            total += value * load_channels(taps + (i * SIZE + j) * channels, c, has)[None, :]
    token, inside = locate_tokens(row, col, height, width)
    store_tokens(out + sample, token, inside, c, has, channels, total)
    if mixed is not None:
        if z is not None:
            total = tl.load(mix + first_mix) * load_tokens(z + sample, token, inside, c, has, channels) \
                + tl.load(mix + first_mix + 1) * total
        else:
            total *= tl.load(mix + first_mix)
        store_tokens(mixed + sample, token, inside, c, has, channels, total)


@triton.jit(do_not_specialize=['first_tap', 'num_taps', 'first_mix', 'height', 'width'])
def conv_backward_kernel(grad, taps, z, previous, mix, grad_z, grad_previous, tap_sums, mix_sums, first_tap, num_taps, first_mix,
                         height, width, channels, ADD: tl.constexpr, SIZE: tl.constexpr, TILE_H: tl.constexpr,
                         TILE_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """Gradients of what a convolution's source is made of, z and the previous output, where these are given.

    The gradient of z is added to ``grad_z`` (or written, unless ADD), that of the previous output to ``grad_previous``.
    For each tile ``tap_sums`` (B, tiles, num_taps, C) get the sums of gradient * source, and ``mix_sums`` (programs, 2)
    the sums of the source's gradient times z and times the previous output.
    """
    tile, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    has = c < channels
    sample = batch * height * width * channels
    taps += (batch * num_taps + first_tap) * channels
    tap_sums += ((batch * tl.num_programs(0) + tile) * num_taps + first_tap) * channels
    row, col = locate_tile(tile, width, TILE_H, TILE_W)
    here, in_map = locate_tokens(row, col, height, width)
    source = tl.zeros((TILE_H * TILE_W, BLOCK_C), tl.float32)
    if z is not None:
        source = load_tokens(z + sample, here, in_map, c, has, channels)
    if previous is not None:
        before = load_tokens(previous + sample, here, in_map, c, has, channels)
        if z is not None:
            of_z, of_previous = tl.load(mix + first_mix), tl.load(mix + first_mix + 1)
            source = of_z * source + of_previous * before
        else:
            of_previous = tl.load(mix + first_mix)
            source = of_previous * before
    total = tl.zeros((TILE_H * TILE_W, BLOCK_C), tl.float32)
    for i in range(SIZE):
        for j in tl.static_range(SIZE):
            # The output that reads this position through this tap lies in the opposite direction.
            token, inside = locate_tokens(row - (i - SIZE // 2), col - (j - SIZE // 2), height, width)
            value = load_tokens(grad + sample, token, inside, c, has, channels)
            tap = (i * SIZE + j) * channels
            total += value * load_channels(taps + tap, c, has)[None, :]
            tl.store(tap_sums + tap + c, tl.sum(value * source, 0), mask=has)
    if previous is not None:
        program = (batch * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tile
        before = load_tokens(previous + sample, here, in_map, c, has, channels)
        tl.store(mix_sums + 2 * program + 1, tl.sum(tl.sum(total * before, 1), 0))
        so_far = load_tokens(grad_previous + sample, here, in_map, c, has, channels)
        store_tokens(grad_previous + sample, here, in_map, c, has, channels, so_far + of_previous * total)
        if z is not None:
            value = load_tokens(z + sample, here, in_map, c, has, channels)
            tl.store(mix_sums + 2 * program, tl.sum(tl.sum(total * value, 1), 0))
            total *= of_z
    if z is not None:
        if ADD:
            total += load_tokens(grad_z + sample, here, in_map, c, has, channels)
        store_tokens(grad_z + sample, here, in_map, c, has, channels, total)


@triton.jit
def score_output(total, weight, bias, i, c, has, channels):
    """Score of output ``i`` at each token, from the sum of the outputs."""
    return tl.sum(total * load_channels(weight + i * channels, c, has)[None, :], 1) + tl.load(bias + i)


@triton.jit(do_not_specialize=['tokens'])
def aggregate_kernel(maps, weight, bias, out, log_sums, tokens, channels, COUNT: tl.constexpr, TOKENS: tl.constexpr,
                     BLOCK_C: tl.constexpr):
    """Mean of ``maps`` (COUNT, tokens, C) weighted by the softmax of their scores, or the plain mean without ``weight``.

    ``log_sums`` get, for each token, the log of the softmax's denominator.
    """
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    valid = token < tokens
    size = tokens.to(tl.int64) * channels
    c = tl.arange(0, BLOCK_C)
    has = c < channels
    total = tl.zeros((TOKENS, BLOCK_C), tl.float32)
    for i in tl.static_range(COUNT):
        total += load_tokens(maps + i * size, token, valid, c, has, channels)
    if weight is None:
        result = total / COUNT
    else:
        # A softmax in one pass: what was summed so far shrinks when a larger score comes.
        largest = tl.full((TOKENS, ), -float('inf'), tl.float32)
        denominator = tl.zeros((TOKENS, ), tl.float32)
        result = tl.zeros((TOKENS, BLOCK_C), tl.float32)
        for i in tl.static_range(COUNT):
            score = score_output(total, weight, bias, i, c, has, channels)
            new_largest = tl.maximum(largest, score)
            keep, share = tl.exp(largest - new_largest), tl.exp(score - new_largest)
            denominator = denominator * keep + share
            value = load_tokens(maps + i * size, token, valid, c, has, channels)
            result = result * keep[:, None] + share[:, None] * value
            largest = new_largest
        result /= denominator[:, None]
        tl.store(log_sums + token, largest + tl.log(denominator), mask=valid)
    store_tokens(out, token, valid, c, has, channels, result)


@triton.jit(do_not_specialize=['tokens'])
def aggregate_backward_kernel(maps, weight, bias, log_sums, grad, grad_maps, weight_sums, bias_sums, tokens, channels,
                              COUNT: tl.constexpr, TOKENS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Gradients of ``maps`` and, for each program, the sums (COUNT, C) and (COUNT,) of those of weight and bias."""
    program = tl.program_id(0).to(tl.int64)
    token = program * TOKENS + tl.arange(0, TOKENS)
    valid = token < tokens
    size = tokens.to(tl.int64) * channels
    c = tl.arange(0, BLOCK_C)
    has = c < channels
    grad_out = load_tokens(grad, token, valid, c, has, channels)
    if weight is None:
        for i in tl.static_range(COUNT):
            store_tokens(grad_maps + i * size, token, valid, c, has, channels, grad_out / COUNT)
    else:
        log_sum = tl.load(log_sums + token, mask=valid, other=0.)
        total = tl.zeros((TOKENS, BLOCK_C), tl.float32)
        for i in tl.static_range(COUNT):
            total += load_tokens(maps + i * size, token, valid, c, has, channels)
        # The gradient of score i is alpha_i * (g . y_i - sum_j alpha_j g . y_j).
        average = tl.zeros((TOKENS, ), tl.float32)
        for i in tl.static_range(COUNT):
            value = load_tokens(maps + i * size, token, valid, c, has, channels)
            alpha = tl.exp(score_output(total, weight, bias, i, c, has, channels) - log_sum)
            average += alpha * tl.sum(grad_out * value, 1)
        grad_total = tl.zeros((TOKENS, BLOCK_C), tl.float32)
        for i in tl.static_range(COUNT):
            value = load_tokens(maps + i * size, token, valid, c, has, channels)
            alpha = tl.exp(score_output(total, weight, bias, i, c, has, channels) - log_sum)
            grad_score = tl.where(valid, alpha * (tl.sum(grad_out * value, 1) - average), 0.)
            grad_total += grad_score[:, None] * load_channels(weight + i * channels, c, has)[None, :]
            tl.store(weight_sums + (program * COUNT + i) * channels + c, tl.sum(grad_score[:, None] * total, 0), mask=has)
            tl.store(bias_sums + program * COUNT + i, tl.sum(grad_score, 0))
        for i in tl.static_range(COUNT):
            alpha = tl.exp(score_output(total, weight, bias, i, c, has, channels) - log_sum)
            store_tokens(grad_maps + i * size, token, valid, c, has, channels, alpha[:, None] * grad_out + grad_total)


def join_taps(kernels: tuple[Tensor, ...]) -> tuple[Tensor, list[int]]:
    """Kernels (B, r, 1, k, k) as one contiguous (B, sum of k * k, r), and where each of them starts."""
    starts = [0]
    for kernel in kernels:
        starts.append(starts[-1] + kernel.shape[-1]**2)
    return torch.cat([kernel.flatten(2).transpose(1, 2) for kernel in kernels], 1).contiguous(), starts


def choose_token_blocks(tokens: int, channels: int, count: int) -> tuple[tuple[int, ...], dict]:
    """Grid and constants of the kernels of the aggregation."""
    block = triton.next_power_of_2(channels)
    size = max(1, min(32, 4096 // block))
    return (triton.cdiv(tokens, size), ), dict(COUNT=count, TOKENS=size, BLOCK_C=block, num_warps=8)


class MixSpatially(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, z: Tensor, hw: tuple[int, int], layout: str, stage_mix: Tensor | None, score_weight: Tensor | None,
                score_bias: Tensor | None, *kernels: Tensor) -> Tensor:
        z = z.contiguous()
        (batch, tokens, channels), count = z.shape, len(kernels)
        taps, starts = join_taps(kernels)
        sizes = choose_tile(hw, channels, FORWARD_TILE)
        grid = make_grid(hw, channels, batch, sizes)
        maps, source = z.new_empty(count, *z.shape), z
        for i, kernel in enumerate(kernels):
            # The last convolution, and every one of the parallel layout, has no successor to prepare.
            mixed = None if layout == 'parallel' or i == count - 1 else torch.empty_like(z)
            conv_kernel[grid](source, taps, maps[i], None if mixed is None or layout != 'sequential' else z,
                              None if mixed is None else stage_mix, mixed, starts[i], starts[-1],
                              2 * i if layout == 'sequential' else i, *hw, channels, SIZE=kernel.shape[-1], **sizes)
            source = z if mixed is None else mixed
        log_sums = None if score_weight is None or count == 1 else allocate_sums(batch * tokens, like=z)
        is_read = count > 1 and (score_weight is not None or layout != 'parallel')
        ctx.save_for_backward(z, maps if is_read else None, stage_mix, score_weight, score_bias, log_sums, *kernels)
        ctx.hw, ctx.layout = hw, layout
        if count == 1:
            return maps[0]
        out = torch.empty_like(z)
        grid, sizes = choose_token_blocks(batch * tokens, channels, count)
        aggregate_kernel[grid](maps, score_weight, score_bias, out, log_sums, batch * tokens, channels, **sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        z, maps, stage_mix, score_weight, score_bias, log_sums, *kernels = ctx.saved_tensors
        (batch, tokens, channels), count, needed = z.shape, len(kernels), ctx.needs_input_grad
        grad = grad.contiguous()
        weight_grads = [None, None]
        if count == 1:
            grad_maps = grad[None]
        else:
            grad_maps = z.new_empty(count, *z.shape)
            grid, sizes = choose_token_blocks(batch * tokens, channels, count)
            scored = score_weight is not None
            weight_sums = allocate_sums(*grid, count, channels, like=z) if scored else None
            bias_sums = allocate_sums(*grid, count, like=z) if scored else None
            aggregate_backward_kernel[grid](maps, score_weight, score_bias, log_sums, grad, grad_maps, weight_sums, bias_sums,
                                            batch * tokens, channels, **sizes)
            if scored:
                weight_grads = [
                    make_gradient(needed[4], weight_sums.sum(0), score_weight),
                    make_gradient(needed[5], bias_sums.sum(0), score_bias)
                ]
        taps, starts = join_taps(kernels)
        sizes = choose_tile(ctx.hw, channels, BACKWARD_TILE)
        grid = make_grid(ctx.hw, channels, batch, sizes)
        grad_z = torch.empty_like(z)
        tap_sums = allocate_sums(batch, grid[0], starts[-1], channels, like=z)
        mix_sums = [allocate_sums(grid[0] * grid[1] * grid[2], 2, like=z) for _ in kernels[1:]] if stage_mix is not None else []
        for i in reversed(range(count)):
            chained = i > 0 and ctx.layout != 'parallel'
            reads_z = not chained or ctx.layout == 'sequential'
            conv_backward_kernel[grid](grad_maps[i], taps, z if reads_z else None, maps[i - 1] if chained else None,
                                       stage_mix if chained else None, grad_z if reads_z else None,
                                       grad_maps[i - 1] if chained else None, tap_sums, mix_sums[i - 1] if chained else None,
                                       starts[i], starts[-1], 2 * (i - 1) if ctx.layout == 'sequential' else i - 1, *ctx.hw,
                                       channels, ADD=i < count - 1 and ctx.layout != 'sequential_no_residual',
                                       SIZE=kernels[i].shape[-1], **sizes)
        grad_mix = None
        if needed[3]:
            pairs = torch.stack(mix_sums).sum(1)
            grad_mix = make_gradient(True, pairs if ctx.layout == 'sequential' else pairs[:, 1], stage_mix)
        tap_grads = tap_sums.sum(1).split([end - start for start, end in zip(starts, starts[1:])], 1)
        kernel_grads = [
            make_gradient(want, part.transpose(1, 2), kernel) for want, part, kernel in zip(needed[6:], tap_grads, kernels)
        ]
        return (grad_z if needed[0] else None, None, None, grad_mix, *weight_grads, *kernel_grads)


run = MixSpatially.apply
