"""The operations of AdaRoute's adapter with random arguments, by every backend, for the tests of tests/test_ops."""
import torch

from mmparax.ops import functional
from mmparax.ops.cpu import mixing as cpu_mixing
from mmparax.ops.cpu import norm_conv as cpu_norm_conv
from mmparax.ops.cpu import out_conv as cpu_out_conv
from mmparax.ops.dispatch import use_backend
from mmparax.ops.fused import mixing as fused_mixing
from mmparax.ops.fused import norm_conv as fused_norm_conv
from mmparax.ops.fused import out_conv as fused_out_conv

# Float64 rounds by 1e-16, and no sum here has more than some thousand terms of about 1: what differs by rounding alone
# differs by less than 1e-11, and a wrong term by far more.
CLOSE = dict(rtol=1e-11, atol=1e-11)
FUNCTIONS = dict(norm_conv=functional.scaled_norm_conv, mixing=functional.mix_spatially, out_conv=functional.conv_scale_shortcut)
MADE_BY = dict(
    fused=dict(norm_conv=fused_norm_conv.ScaledNormConv, mixing=fused_mixing.MixSpatially,
               out_conv=fused_out_conv.ConvScaleShortcut),
    cpu=dict(norm_conv=cpu_norm_conv.ScaledNormConv, mixing=cpu_mixing.MixSpatially, out_conv=cpu_out_conv.ConvScaleShortcut),
)


def leaf(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def norm_conv_arguments(batch, hw, channels=6):
    return dict(x=leaf(batch, hw[0] * hw[1], channels), hw=hw, scale=leaf(channels), norm_weight=leaf(channels),
                norm_bias=leaf(channels), eps=1e-5, weight=leaf(channels, 1, 3, 3), bias=leaf(channels))


def out_conv_arguments(batch, hw, scaled=True, channels=6):
    shape = batch, hw[0] * hw[1], channels
    return dict(y=leaf(*shape), hw=hw, weight=leaf(channels, 1, 3, 3), bias=leaf(channels), layer_scale=leaf(channels),
                layer_bias=leaf(channels), shortcut=leaf(*shape), shortcut_scale=leaf(channels) if scaled else None,
                shortcut_bias=leaf(channels) if scaled else None)


def mixing_arguments(batch, hw, sizes=(3, 5, 7), layout='sequential', scored=True, channels=4):
    count = len(sizes)
    mixes = (count - 1) * dict(sequential=2, sequential_no_residual=1, parallel=0)[layout]
    kernels = [(leaf(batch, channels, 1, size, size) / size).detach().requires_grad_() for size in sizes]
    return dict(z=leaf(batch, hw[0] * hw[1], channels), hw=hw, kernels=kernels, stage_mix=leaf(mixes) if mixes else None,
                layout=layout, score_weight=leaf(count, channels) if scored else None, score_bias=leaf(count) if scored else None)


ARGUMENTS = dict(norm_conv=norm_conv_arguments, mixing=mixing_arguments, out_conv=out_conv_arguments)


def tensors(arguments):
    """Name -> tensor, of every tensor among the arguments."""
    flat = {**arguments, **{f'kernel{i}': kernel for i, kernel in enumerate(arguments.get('kernels', ()))}}
    return {name: value for name, value in flat.items() if isinstance(value, torch.Tensor)}


def find_backend(operation, out):
    """The backend whose function made ``out``."""
    return next(
        (backend for backend, functions in MADE_BY.items() if isinstance(out.grad_fn, functions[operation]._backward_cls)),
        'reference')


def compute_all(operation, arguments, backend, loss=None):
    """Outputs and gradients by one backend; the loss weighs every number of every output differently, if it is not given."""
    if loss is None:

        def loss(outs):
            generator = torch.Generator().manual_seed(7)
            weights = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype) for out in outs]
            return sum((out * weight).sum() for out, weight in zip(outs, weights))

    with use_backend(backend):
        outs = FUNCTIONS[operation](**arguments)
    outs = outs if isinstance(outs, tuple) else (outs, )
    assert find_backend(operation, outs[0]) == backend
    wanted = {name: tensor for name, tensor in tensors(arguments).items() if tensor.requires_grad}
    grads = torch.autograd.grad(loss(outs), list(wanted.values()))
    return {**{f'output {i}': out for i, out in enumerate(outs)}, **dict(zip(wanted, grads))}


def assert_equal(operation, arguments, backend, loss=None):
    """Outputs and gradients by ``backend`` are those of the reference."""
    expected, found = (compute_all(operation, arguments, each, loss) for each in ('reference', backend))
    assert len(expected) > 1
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **CLOSE, msg=lambda text, name=name: f'{name}: {text}')
