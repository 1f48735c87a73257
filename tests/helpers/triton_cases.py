"""Runs the Triton kernels without a GPU, for test_triton.py, which starts this as a program.

Triton reads TRITON_INTERPRET where a kernel is defined, so each of these needs a process of its own:
``TRITON_INTERPRET=1 python triton_cases.py RESULT.json fast|full`` interprets them, against float64 references;
``python triton_cases.py RESULT.json 90`` compiles, for a GPU of capability 9.0, all that the operations launch.
"""
import json
import sys

import torch
import torch.nn.functional as F

from mmparax.adapters.adaroute import AdaRouteAdapter, ExpertCenter
from mmparax.ops import triton as operations
from mmparax.ops.dispatch import use_backend

DTYPES = dict(float32=torch.float32, float16=torch.float16, bfloat16=torch.bfloat16)


def conv_case(name, batch, hw, channels, dtype='float32', full=False, **options):
    label = '-'.join([name, f'b{batch}', 'x'.join(map(str, hw)), f'c{channels}', dtype, *map(str, options.values())])
    return dict(id=label, full=full, name=name, batch=batch, hw=hw, channels=channels, dtype=dtype, options=options)


def mix_case(batch, hw, channels, sizes, layout='sequential', scored=True, dtype='float32', full=False):
    label = '-'.join([
        'sum_convolutions', f'b{batch}', 'x'.join(map(str, hw)), f'r{channels}', dtype, ''.join(map(str, sizes)), layout,
        'scored' if scored else 'mean'
    ])
    return dict(id=label, full=full, name='sum_convolutions', batch=batch, hw=hw, channels=channels, dtype=dtype,
                options=dict(sizes=sizes, layout=layout, scored=scored))


LAYOUTS = ('sequential', 'sequential_no_residual', 'parallel')
KERNEL_SETS = ((3, 5, 7), (5, 7, 9), (3, 3, 3), (5, ), (1, 3))
CASES = [
    conv_case('scaled_norm_conv', 1, (5, 7), 20, out_dtype='float16'),
    conv_case('scaled_norm_conv', 3, (9, 2), 20),  # more than one tile
    conv_case('conv_scale_shortcut', 1, (5, 7), 20, 'float16', scaled=True),
    conv_case('conv_scale_shortcut', 3, (9, 1), 33, scaled=False),
    mix_case(1, (5, 7), 20, (3, 5, 7)),
    mix_case(3, (4, 2), 20, (3, 3, 3), 'sequential_no_residual'),
    mix_case(1, (5, 3), 33, (3, 5), 'parallel'),
    mix_case(3, (5, 3), 20, (5, ), scored=False),
]
CASES += [
    dict(case, full=True) for case in (
        conv_case('scaled_norm_conv', 1, (5, 7), 20),
        conv_case('scaled_norm_conv', 1, (1, 9), 33),
        conv_case('scaled_norm_conv', 1, (5, 7), 20, 'float16'),
        conv_case('conv_scale_shortcut', 1, (5, 7), 20, scaled=True),
        conv_case('conv_scale_shortcut', 1, (3, 17), 66, scaled=True),  # more than one block of channels
        mix_case(1, (1, 9), 20, (5, 7, 9)),
        mix_case(1, (5, 7), 20, (3, 3), scored=False),
        mix_case(1, (5, 7), 20, (3, 5), dtype='float16'),
    )
]
CASES += [
    conv_case(name, batch, hw, channels, dtype, full=True, **options)
    for name, options in (('scaled_norm_conv', {}), ('conv_scale_shortcut', dict(scaled=True)), ('conv_scale_shortcut',
                                                                                                 dict(scaled=False)))
    for dtype in DTYPES for batch, hw, channels in ((1, (1, 1), 3), (3, (9, 17), 20), (1, (2, 33), 96))
]
CASES += [
    mix_case(batch, hw, channels, sizes, layout, scored, dtype, full=True)
    for batch, hw, channels in ((1, (5, 7), 33), (3, (1, 9), 20), (3, (9, 3), 20)) for sizes in KERNEL_SETS
    for layout in (LAYOUTS if len(sizes) > 1 else LAYOUTS[:1])
    for scored in ((True, False) if len(sizes) > 1 and batch == 1 else (len(sizes) > 1, ))
    for dtype in (DTYPES if (sizes, layout, scored) == ((3, 5, 7), 'sequential', True) else ('float32', ))
]
COMPILED = [
    conv_case('scaled_norm_conv', 1, (40, 48), 192),
    conv_case('scaled_norm_conv', 1, (40, 48), 192, 'float16'),
    conv_case('conv_scale_shortcut', 1, (40, 48), 192, scaled=True),
    conv_case('conv_scale_shortcut', 1, (40, 48), 192, 'bfloat16', scaled=False),
    mix_case(1, (40, 48), 128, (3, 5, 7), dtype='float16'),
    mix_case(1, (40, 48), 128, (3, 9), 'sequential_no_residual', scored=False),
    mix_case(1, (40, 48), 128, (3, 5), 'parallel', dtype='bfloat16'),
]


def uniform(*shape, dtype=torch.float32):
    return (torch.rand(shape) * 2 - 1).to(dtype).requires_grad_()


def conv(x, hw, weight, bias=None):
    """Depthwise convolution of tokens (B, N, C) by (C, 1, k, k)."""
    maps = x.transpose(1, 2).unflatten(2, hw)
    return F.conv2d(maps, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight)).flatten(2).transpose(1, 2)


def scaled_norm_conv(x, hw, scale, norm_weight, norm_bias, eps, conv_weight, conv_bias):
    u = x + scale * F.layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
    out = u + conv(u, hw, conv_weight, conv_bias)
    return out, out.mean(1)


def conv_scale_shortcut(y, hw, conv_weight, conv_bias, layer_scale, layer_bias, shortcut, shortcut_scale, shortcut_bias):
    if shortcut_scale is not None:
        shortcut = shortcut_scale * shortcut + shortcut_bias
    return layer_scale * (y + conv(y, hw, conv_weight, conv_bias)) + layer_bias + shortcut,


def sum_convolutions(z, hw, stack, stage_mix, layout, weight, bias):
    outputs = []
    for i, kernel in enumerate(stack):
        source = z
        if i and layout == 'sequential':
            source = stage_mix[2 * i - 2] * z + stage_mix[2 * i - 1] * outputs[-1]
        elif i and layout == 'sequential_no_residual':
            source = stage_mix[i - 1] * outputs[-1]
        outputs.append(torch.cat([conv(one[None], hw, weights) for one, weights in zip(source, kernel)]))
    outputs = torch.stack(outputs)
    if weight is None:
        return outputs.mean(0),
    alpha = (outputs.sum(0) @ weight.t() + bias).softmax(-1)
    return torch.einsum('bpn,nbpr->bpr', alpha, outputs),


def arguments(case):
    """The operation's arguments, as (name, value)."""
    batch, channels, dtype, options = case['batch'], case['channels'], DTYPES[case['dtype']], case['options']
    hw, shape = case['hw'], (batch, case['hw'][0] * case['hw'][1], channels)
    static = [('conv_weight', uniform(channels, 1, 3, 3)), ('conv_bias', uniform(channels))]
    if case['name'] == 'scaled_norm_conv':
        vectors = [(name, uniform(channels)) for name in ('scale', 'norm_weight', 'norm_bias')]
        return [('x', uniform(*shape, dtype=dtype)), ('hw', hw), *vectors, ('eps', 1e-5), *static]
    if case['name'] == 'conv_scale_shortcut':
        names = 'layer_scale', 'layer_bias', 'shortcut', 'shortcut_scale', 'shortcut_bias'
        values = [(name, uniform(channels)) for name in names]
        values[2] = 'shortcut', uniform(*shape, dtype=dtype)
        if not options['scaled']:
            values[3:] = [(name, None) for name in names[3:]]
        return [('y', uniform(*shape, dtype=dtype)), ('hw', hw), *static, *values]
    sizes, layout = options['sizes'], options['layout']
    count = len(sizes)
    mixes = (count - 1) * dict(sequential=2, sequential_no_residual=1, parallel=0)[layout]
    # Unit gain: outputs of a chain of convolutions stay of one size, as in a network.
    stack = [(torch.randn(batch, channels, 1, k, k) / k).to(dtype).requires_grad_() for k in sizes]
    return [('z', uniform(*shape, dtype=dtype)), ('hw', hw), ('kernels', stack), ('stage_mix', uniform(mixes) if mixes else None),
            ('layout', layout), ('score_weight', uniform(count, channels) if options['scored'] else None),
            ('score_bias', uniform(count) if options['scored'] else None)]


def leaves(named):
    """(name, tensor) of every tensor among the arguments."""
    for name, value in named:
        for i, item in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(item, torch.Tensor):
                yield (f'{name}{i}' if isinstance(value, list) else name), item


def in_double(value):
    if isinstance(value, list):
        return [in_double(item) for item in value]
    return value.detach().double().requires_grad_() if isinstance(value, torch.Tensor) else value


def errors(case):
    """Largest error of every output and gradient, as a share of the largest value there, and dtypes that are wrong."""
    torch.manual_seed(0)
    ours = arguments(case)
    exact = [(name, in_double(value)) for name, value in ours]
    expected = globals()[case['name']](*(value for _, value in exact))
    out_dtype = case['options'].get('out_dtype')
    extra = {} if out_dtype is None else dict(out_dtype=DTYPES[out_dtype])
    found = getattr(operations, case['name'])(*(value for _, value in ours), **extra)
    found = found if isinstance(found, tuple) else (found, )
    weights = [torch.rand(out.shape).to(out.dtype) for out in found]
    dtypes = [str(out.dtype) for out in found]
    sum((out.float() * weight.float()).sum() for out, weight in zip(found, weights)).backward()
    sum((out * weight).sum() for out, weight in zip(expected, weights)).backward()
    pairs = {f'out{i}': pair for i, pair in enumerate(zip(found, expected))}
    for (name, mine), (_, reference) in zip(leaves(ours), leaves(exact)):
        pairs[f'grad of {name}'] = mine.grad, reference.grad
        assert mine.grad.dtype == mine.dtype and mine.grad.shape == mine.shape, name
    return dict(
        dtypes=dtypes, errors={
            name: ((mine - reference).abs().max() / reference.abs().max().clamp_min(1e-30)).item()
            for name, (mine, reference) in pairs.items()
        })


def adapter_errors():
    """As :func:`errors`, for an adapter by the Triton kernels against itself by the reference.

    Its gradients are those that two backward passes accumulated and that then were scaled in place, as accumulation and
    clipping do: a gradient that shares memory with another is wrong by now.
    """
    torch.manual_seed(0)
    adapter = AdaRouteAdapter(24, ExpertCenter(2, 24, 12, (3, 5), 'kaiming_uniform'), 4, True, 'sequential', 'softmax', 1., True,
                              'trunc_normal')
    torch.nn.init.ones_(adapter.norm_scale)
    x, weight, results = uniform(2, 12, 24), torch.rand(2, 12, 24), {}
    for backend in ('reference', 'triton'):
        named = dict(x=x, **dict(adapter.named_parameters()), **dict(adapter.center.named_parameters()))
        for tensor in named.values():
            tensor.grad = None
        for _ in range(2):
            with use_backend(backend):
                out = adapter(x, (3, 4))
            (out * weight).sum().backward()
        for tensor in named.values():
            tensor.grad.mul_(0.5)
        results[backend] = {**{name: tensor.grad for name, tensor in named.items()}, 'out': out}
    return dict(
        dtypes=[str(out.dtype)], errors={
            name: ((results['triton'][name] - exact).abs().max() / exact.abs().max().clamp_min(1e-30)).item()
            for name, exact in results['reference'].items()
        })


def compile_all(capability):
    """The kernels that there are and, {kernel: the targets it was compiled for}, those that the operations launch."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from mmparax.ops.triton import common, mixing, norm_conv, out_conv

    class Device:
        """Stands in for the driver of a GPU, which Triton asks what to compile for."""

        @staticmethod
        def get_current_device():
            return 0

        @staticmethod
        def get_current_stream(device):
            return 0

        @staticmethod
        def get_current_target():
            return GPUTarget('cuda', capability, 32)

    launch, results = JITFunction.run, {}

    def label(kernel):
        return f'{kernel.module.rpartition(".")[2]}.{kernel.fn.__name__}'

    def compile_only(kernel, *args, grid, warmup, **constants):
        binary = launch(kernel, *args, grid=grid, warmup=True, **constants)
        assert binary.asm['cubin']
        target = next(line.split()[1] for line in binary.asm['ptx'].splitlines() if line.startswith('.target'))
        results.setdefault(label(kernel), set()).add(target)

    driver.set_active(Device)
    JITFunction.run, common.INTERPRETED = compile_only, True
    for case in COMPILED:
        found = getattr(operations, case['name'])(*(value for _, value in arguments(case)))
        sum(out.float().sum() for out in (found if isinstance(found, tuple) else (found, ))).backward()
    # Functions of kernels are JITFunctions, too; only a kernel's name ends so.
    kernels = {
        label(value) for module in (mixing, norm_conv, out_conv) for name, value in vars(module).items()
        if isinstance(value, JITFunction) and name.endswith('_kernel')
    }
    return dict(kernels=sorted(kernels), compiled={name: sorted(targets) for name, targets in results.items()})


def main(path, task):
    if task.isdigit():
        results = compile_all(int(task))
    else:
        results = {case['id']: errors(case) for case in CASES if case['full'] == (task == 'full')}
        results['adapter'] = adapter_errors()
    with open(path, 'w') as file:
        json.dump(results, file)


if __name__ == '__main__':
    main(*sys.argv[1:])
