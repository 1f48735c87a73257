"""Runs the operations in C with the sanitizers of addresses and of undefined behaviour, for test_cpu_sanitized.py.

``python sanitized_cases.py compile`` compiles them, ``python sanitized_cases.py run``, with the sanitizers' libraries loaded
first (LD_PRELOAD), calls them and ends by an error where they read or write what is not theirs. PyTorch's allocator takes
each tensor from ``posix_memalign``, which the sanitizer surrounds with forbidden memory; scratch memory is one tensor, exactly
as large as the threads need. Both runs need the same empty folder for ``XDG_CACHE_HOME``.
"""
import itertools
import sys

import torch

from mmparax.ops.compiler import find_compiler
from mmparax.ops.cpu import build, calling, norm_conv
from mmparax.ops.dispatch import use_backend
from mmparax.ops.functional import LAYOUTS, conv_scale_shortcut, mix_spatially, scaled_norm_conv

SANITIZERS = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all', '-fno-omit-frame-pointer']
build.FLAGS[:] = ['-O1', '-g', '-march=native', '-fPIC', *SANITIZERS]
build.LINK_FLAGS += SANITIZERS
BATCHES, MAPS = (1, 3), [(1, 1), (1, 9), (5, 1), (5, 7), (4, 300), (6, 300)]
CHANNELS = (1, 7, 8, 9, 16, 17, 33)
KERNEL_SETS = [(1, ), (5, ), (3, 5, 7), (9, 3), (3, ) * 16]
CALLED = set()


def differentiate(function, **arguments):
    """Call an operation and its gradient; tensors that are made here are used up to their last number."""
    leaves = [value for value in arguments.values() if isinstance(value, torch.Tensor)] + arguments.get('kernels', [])
    outs = function(**arguments)
    outs = outs if isinstance(outs, tuple) else (outs, )
    grads = torch.autograd.grad(outs, leaves, [torch.randn_like(out) for out in outs])
    if not all(tensor.isfinite().all() for tensor in (*outs, *grads)):
        raise ArithmeticError(f'{function.__name__} gives numbers that are not finite')


def run_grid(dtype):

    def leaf(*shape):
        return torch.randn(shape, dtype=dtype, requires_grad=True)

    for batch, hw, channels in itertools.product(BATCHES, MAPS, CHANNELS):
        shape, taps = (batch, hw[0] * hw[1], channels), (channels, 1, 3, 3)
        vectors = [leaf(channels) for _ in range(4)]
        differentiate(scaled_norm_conv, x=leaf(*shape), hw=hw, scale=vectors[0], norm_weight=vectors[1], norm_bias=vectors[2],
                      eps=1e-5, weight=leaf(*taps), bias=vectors[3])
        for scaled in (True, False):
            extra = [leaf(channels), leaf(channels)] if scaled else [None, None]
            differentiate(conv_scale_shortcut, y=leaf(*shape), hw=hw, weight=leaf(*taps), bias=vectors[0], layer_scale=vectors[1],
                          layer_bias=vectors[2], shortcut=leaf(*shape), shortcut_scale=extra[0], shortcut_bias=extra[1])
        if hw[1] > 100:
            continue
        for sizes, layout, scored in itertools.product(KERNEL_SETS, LAYOUTS, (True, False)):
            count = len(sizes)
            if count == 1 and (scored or layout != 'sequential'):
                continue
            mixes = (count - 1) * dict(sequential=2, sequential_no_residual=1, parallel=0)[layout]
            differentiate(mix_spatially, z=leaf(*shape), hw=hw, kernels=[leaf(batch, channels, 1, k, k) for k in sizes],
                          stage_mix=leaf(mixes) if mixes else None, layout=layout,
                          score_weight=leaf(count, channels) if scored else None, score_bias=leaf(count) if scored else None)


def record_calls():
    """Note which functions are called."""
    call = calling.call

    def recorded(name, like, **arguments):
        CALLED.add(name)
        return call(name, like, **arguments)

    calling.call = norm_conv.call = recorded


def main(task):
    if task == 'compile':
        for dtype in build.REALS:
            build.prepare_library(dtype, find_compiler(), [build.OPENMP])
        return
    record_calls()
    torch.manual_seed(0)
    for dtype, threads in itertools.product(build.REALS, (1, 8)):  # eight: more than there are tasks in some cases
        torch.set_num_threads(threads)
        with use_backend('cpu'):
            run_grid(dtype)
        print(f'{dtype}, {threads} threads: nothing was found', flush=True)
    print('called:', *sorted(CALLED))


if __name__ == '__main__':
    main(*sys.argv[1:])
