"""Efficient window attention for a frozen Swin: no linear maps of padding, one copy each way, cached masks.

mmpretrain pads the map, rolls it, cuts it into windows, and then computes queries, keys and values of all positions. Those
of the padding are maps of a zero: the bias. Here the linear maps see the tokens alone. A list of rows, made once for each
size, says where each token's heads go, so that padding, shift and windows are one copy.
"""
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmpretrain.models.utils.attention import ShiftWindowMSA, WindowMSA
from torch import Tensor, nn

from mmparax.backbones.block import swap_class

try:
    from torch.utils._python_dispatch import is_in_torch_dispatch_mode
except ImportError:  # private: without it nothing is cached

    def is_in_torch_dispatch_mode() -> bool:
        return True


LONGEST_AXIS = 2**16 - 1  # of batch or heads in a launch of the fused kernels


def is_fused_attention_faster(q: Tensor) -> bool:
    """Whether ``scaled_dot_product_attention`` takes queries (B, windows, heads, N, D) and is faster for them.

    For windows of 49 tokens it is a tenth slower on a CPU. Its fused kernels launch a limited number of windows.
    """
    return q.is_cuda and q.shape[1] * max(q.shape[0], q.shape[2]) <= LONGEST_AXIS


def make_shift_mask(hw: tuple[int, int], window_size: int, shift_size: int, device: torch.device | None,
                    dtype: torch.dtype) -> Tensor:
    """Make mmpretrain's mask (windows, N, N) of a padded map of size ``hw``: -100 between tokens that only the shift made
    neighbours, else 0.

    It is made of comparisons, because PyTorch's compiler writes wrong C++ for mmpretrain's assignments to slices.
    """
    parts = []
    for length in hw:
        place = torch.arange(length, device=device)
        parts.append((place >= length - window_size).long() + (place >= length - shift_size))
    regions = 3 * parts[0][:, None] + parts[1]
    region = ShiftWindowMSA.window_partition(regions[None, ..., None], window_size).flatten(1)
    apart = region[:, :, None] != region[:, None]
    return torch.zeros(apart.shape, dtype=dtype, device=device).masked_fill(apart, -100.)


def resolve_cache(cached: Any) -> Callable:
    """Return a cached function, or the function behind it where tensors have no values (``FakeTensorMode``) or are counted."""
    return cached.__wrapped__ if is_in_torch_dispatch_mode() else cached


@functools.lru_cache(maxsize=8)
def get_shift_mask(*args: Any) -> Tensor:
    """As :func:`make_shift_mask`, with a cache that the blocks of a stage and the next image share."""
    with torch.inference_mode(False):  # training may use the mask of an evaluation
        return make_shift_mask(*args)


class WindowRows(NamedTuple):
    """Where the rows of one image go; a row is one head's part of one of a token's vectors.

    Attributes:
        source: (vectors, rows of windows), the row of the tokens that belongs there; 0 for padding.
        target: (rows of tokens,), the place of each among the windows of all vectors.
        empty: (padding,), the rows of the windows of each vector that are padding.
        heads: (padding,), the head of each of ``empty``.
    """
    source: Tensor
    target: Tensor
    empty: Tensor
    heads: Tensor


@functools.lru_cache(maxsize=16)
def find_window_rows(hw: tuple[int, int], window_size: int, shift_size: int, vectors: int, heads: int,
                     device: torch.device) -> WindowRows:
    """Find the rows between tokens (H*W, vectors, heads) and windows (vectors, windows, heads, N).

    Args:
        hw: (H, W) of the map, not padded.
        window_size: side of a window; N is its square.
        shift_size: of the cyclic shift.
        vectors: 3 for queries, keys and values, 1 for one vector a token.
        heads: parts of a vector.
        device: of the lists.
    """
    with torch.inference_mode(False):
        count, height, width = hw[0] * hw[1], *hw
        tokens = F.pad(
            torch.arange(count, device=device).view(hw), (0, -width % window_size, 0, -height % window_size), value=count)
        if shift_size:
            tokens = tokens.roll((-shift_size, -shift_size), (0, 1))
        tokens = ShiftWindowMSA.window_partition(tokens[None, ..., None], window_size).view(-1, 1, window_size**2)
        kinds = torch.arange(vectors * heads, device=device).view(vectors, 1, heads, 1)
        source = (tokens * vectors * heads + kinds).view(vectors, -1)
        # Their number is known, so sorting needs no answer of the device, for which `nonzero` would wait.
        empty = source[0].argsort(stable=True)[count * heads:]
        target = source.new_empty((count + 1) * vectors * heads)
        target[source.flatten()] = torch.arange(source.numel(), device=device)
        return WindowRows(
            source.index_fill(1, empty, 0).int(), target[:count * vectors * heads].int(), empty, empty // window_size**2 % heads)


class TokensToWindows(torch.autograd.Function):
    """Rows of tokens (B, rows, D) -> for each vector rows of windows (B, rows, D); padding gets ``fill``.

    ``fill``: (vectors, heads, D), or None for 0.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, fill: Tensor | None, rows: WindowRows) -> tuple[Tensor, ...]:
        ctx.rows, ctx.fill = rows, fill
        parts = [x.index_select(1, source) for source in rows.source]
        if rows.empty.numel():
            for i, part in enumerate(parts):
                part[:, rows.empty] = x.new_zeros(()) if fill is None else fill[i, rows.heads].to(x.dtype)
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        fill, rows, fill_grad = ctx.fill, ctx.rows, None
        if ctx.needs_input_grad[1]:
            fill_grad = torch.stack(
                [torch.zeros_like(fill[0]).index_add(0, rows.heads, grad[:, rows.empty].sum(0).to(fill.dtype)) for grad in grads])
        return WindowsToTokens.apply(rows, *grads) if ctx.needs_input_grad[0] else None, fill_grad, None


class WindowsToTokens(torch.autograd.Function):
    """Rows of windows of each vector (B, rows, D) -> rows of tokens (B, rows, D)."""

    @staticmethod
    def forward(ctx: Any, rows: WindowRows, *parts: Tensor) -> Tensor:
        ctx.rows = rows
        return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).index_select(1, rows.target)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *TokensToWindows.apply(grad, None, ctx.rows)


class EfficientWindowMSA(ShiftWindowMSA):
    """mmpretrain's ShiftWindowMSA, equal up to rounding, and faster as long as its position bias is frozen."""

    @staticmethod
    def get_attn_mask(hw_shape: tuple[int, int], window_size: int, shift_size: int,
                      device: torch.device | None = None) -> Tensor | None:
        if shift_size == 0:
            return None
        make: Callable = make_shift_mask if _is_graph_captured() else resolve_cache(get_shift_mask)
        return make(tuple(hw_shape), window_size, shift_size, device, torch.get_default_dtype())

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attend within windows of tokens (B, H*W, C); the shape stays."""
        if not self._is_efficient(query, hw_shape):
            return super().forward(query, hw_shape)
        attention, (height, width), side = self.w_msa, hw_shape, self.window_size
        batch, _, channels = query.shape
        heads, count = attention.num_heads, side**2
        shift = self.shift_size if min(hw_shape) > side or self.pad_small_map else 0
        rows = functools.partial(resolve_cache(find_window_rows), (height, width), side, shift, heads=heads, device=query.device)

        qkv, fill = attention.qkv(query), attention.qkv.bias
        if type(attention.qkv) is not nn.Linear:  # a method may add to the map of a zero, too
            fill = attention.qkv(query.new_zeros(1, 1, channels))
        q, k, v = (part.view(batch, -1, heads, count, channels // heads) for part in TokensToWindows.apply(
            qkv.reshape(batch, -1, channels // heads), None if fill is None else fill.view(3, heads, -1), rows(vectors=3)))
        bias = attention.relative_position_bias_table[attention.relative_position_index.view(-1)]
        bias = bias.view(count, count, heads).permute(2, 0, 1).contiguous()  # the scores take its layout
        padded = height + -height % side, width + -width % side
        mask = self.get_attn_mask(padded, side, shift, query.device)
        out = attend_in_windows(q, k, v, bias, mask, attention.scale, attention.attn_drop)
        out = WindowsToTokens.apply(rows(vectors=1), out.reshape(batch, -1, channels // heads))
        return self.drop(attention.proj_drop(attention.proj(out.view(batch, -1, channels))))

    def _is_efficient(self, query: Tensor, hw: tuple[int, int]) -> bool:
        """Whether this attention may be computed in another way.

        Not with a trainable position bias, attention that a method changed or that has hooks, a compiler that captures the
        graph, or an input that upstream refuses.
        """
        attention = self.w_msa
        return not (type(attention) is not WindowMSA or attention.relative_position_bias_table.requires_grad
                    or attention._forward_hooks or attention._forward_pre_hooks or _is_graph_captured()
                    or query.shape[1] != hw[0] * hw[1] or (min(hw) < self.window_size and not self.pad_small_map))


def attend_in_windows(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None, scale: float,
                      dropout: nn.Dropout) -> Tensor:
    """Return ``dropout(softmax(scale * q @ k' + bias + mask)) @ v``.

    Args:
        q, k, v: (B, windows, heads, N, D).
        bias: (heads, N, N), without gradient.
        mask: (windows, N, N), or None.
        scale: of the products.
        dropout: of the attention weights.

    Returns:
        Tensor: (B, windows, heads, N, D).
    """
    if not is_fused_attention_faster(q):
        scores = torch.add(bias, q @ k.transpose(-2, -1), alpha=scale)
        if mask is not None:
            scores += mask[:, None]
        return dropout(scores.softmax(-1)) @ v
    # The fused kernels take four axes. Without a mask the bias is the same for every window.
    shape, rate = q.shape, dropout.p if dropout.training else 0.
    if mask is None:
        q, k, v, bias = *(each.flatten(0, 1) for each in (q, k, v)), bias[None]
    else:
        q, k, v, bias = *(each.flatten(1, 2) for each in (q, k, v)), (bias + mask[:, None]).flatten(0, 1)[None]
    return F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), rate, scale=scale).view(shape)


def _is_graph_captured() -> bool:
    """Whether a compiler or an exporter captures the graph: it fuses by itself, and cannot take these functions or caches."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def use_efficient_attention(block: nn.Module) -> None:
    """Swap the attention of one frozen Swin block; keys stay. Attention of another class than upstream's stays as it is."""
    if type(block.attn) is ShiftWindowMSA:
        swap_class(block.attn, [ShiftWindowMSA], EfficientWindowMSA, ['query', 'hw_shape'])
