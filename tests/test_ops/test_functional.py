"""The backends of AdaRoute's operations equal the reference, in value and in every gradient."""
import pytest
import torch

from helpers.cases import adapter_and_center, perturb
from helpers.operations import (
    ARGUMENTS,
    CLOSE,
    FUNCTIONS,
    assert_equal,
    leaf,
    mixing_arguments,
    norm_conv_arguments,
    out_conv_arguments,
    tensors,
)
from mmparax.errors import ParameterError
from mmparax.ops.dispatch import use_backend
from mmparax.ops.reference.mixing import LAYOUTS

MAPS = [(5, 7), (1, 9), (1, 1)]
KERNEL_SETS = [(3, 5, 7), (5, ), (3, 3, 3), (5, 7, 9)]
ALL_BACKENDS = pytest.mark.parametrize('backend', ['reference', 'fused', 'cpu'])
OPERATIONS = pytest.mark.parametrize('operation', list(ARGUMENTS))


@pytest.fixture(params=['fused', 'cpu'])
def backend(request):
    return request.param


@pytest.mark.parametrize('hw', MAPS, ids=str)
@pytest.mark.parametrize('batch', [1, 3])
def test_norm_conv_is_the_reference(backend, batch, hw):
    assert_equal('norm_conv', norm_conv_arguments(batch, hw), backend)


@pytest.mark.parametrize('hw', MAPS, ids=str)
@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('scaled', [True, False])
def test_out_conv_is_the_reference(backend, batch, hw, scaled):
    assert_equal('out_conv', out_conv_arguments(batch, hw, scaled), backend)


@pytest.mark.parametrize('hw', MAPS, ids=str)
@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('sizes', KERNEL_SETS, ids=str)
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('scored', [True, False])
def test_mixing_is_the_reference(backend, batch, hw, sizes, layout, scored):
    assert_equal('mixing', mixing_arguments(batch, hw, sizes, layout, scored and len(sizes) > 1), backend)


@pytest.mark.full
@OPERATIONS
@pytest.mark.parametrize('hw', [(17, 19), (2, 33), (40, 1)], ids=str)
@pytest.mark.parametrize('batch', [1, 4])
@pytest.mark.parametrize('channels', [1, 33])
def test_larger_maps_are_the_reference(backend, operation, hw, batch, channels):
    assert_equal(operation, ARGUMENTS[operation](batch, hw, channels=channels), backend)


GRADCHECKS = [('norm_conv', {}), ('out_conv', dict(scaled=True)), ('out_conv', dict(scaled=False))]
GRADCHECKS += [('mixing', dict(sizes=(3, 5), layout=layout, scored=scored)) for layout in LAYOUTS for scored in (True, False)]
GRADCHECKS += [('mixing', dict(sizes=(5, ), scored=False)), ('mixing', dict(sizes=(3, 3, 3)))]


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('operation, options', GRADCHECKS, ids=str)
def test_gradients_are_those_of_small_differences(backend, operation, options, batch):
    arguments = ARGUMENTS[operation](batch, (2, 3), channels=2, **options)
    named = tensors(arguments)

    def function(*values):
        given = {**arguments, **dict(zip(named, values))}
        if 'kernels' in given:
            given['kernels'] = [given.pop(name) for name in named if name.startswith('kernel')]
        with use_backend(backend):
            return FUNCTIONS[operation](**given)

    assert torch.autograd.gradcheck(function, list(named.values()))


def leave_batch_last(tensor):
    """The same numbers, with the tokens' channels far from each other in memory."""
    return tensor.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()


def without_first_token(tensor):
    """A part of longer tokens, as when a class token passes by."""
    return torch.cat([tensor.detach()[:, :1], tensor.detach()], 1)[:, 1:].requires_grad_()


@OPERATIONS
@pytest.mark.parametrize('layout', [leave_batch_last, without_first_token])
@pytest.mark.parametrize('batch', [1, 3])
def test_tokens_need_not_be_contiguous(backend, operation, layout, batch):
    arguments = ARGUMENTS[operation](batch, (3, 4))
    arguments = {
        name: layout(value) if isinstance(value, torch.Tensor) and value.ndim == 3 else value
        for name, value in arguments.items()
    }
    assert not all(value.is_contiguous() for value in tensors(arguments).values()) or batch == 1
    assert_equal(operation, arguments, backend)


@OPERATIONS
def test_weights_need_not_be_contiguous(backend, operation):
    """Nor kernels: the same numbers, with the first axis the last in memory."""

    def turned(tensor):
        return tensor.detach().movedim(0, -1).contiguous().movedim(-1, 0).requires_grad_()

    arguments = ARGUMENTS[operation](2, (3, 4))
    if operation == 'mixing':
        arguments.update(kernels=[turned(kernel) for kernel in arguments['kernels']],
                         score_weight=turned(arguments['score_weight']))
    else:
        arguments['weight'] = turned(arguments['weight'])
    assert not all(tensor.is_contiguous() for tensor in tensors(arguments).values())
    assert_equal(operation, arguments, backend)


@ALL_BACKENDS
@OPERATIONS
def test_tokens_that_are_no_map_of_this_size_are_refused(backend, operation):
    arguments = dict(ARGUMENTS[operation](1, (3, 4)), hw=(2, 5))
    with use_backend(backend), pytest.raises((RuntimeError, ParameterError)):
        FUNCTIONS[operation](**arguments)


LOSSES = dict(
    expanded=lambda outs: sum(out.sum() for out in outs),
    transposed=lambda outs: sum(
        (out.flatten(1, -2).transpose(1, -1).contiguous() if out.ndim == 3 else out).sin().sum() for out in outs),
    first_alone=lambda outs: outs[0].sin().sum(),
    last_alone=lambda outs: outs[-1].sin().sum(),
)


@OPERATIONS
@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_gradients_of_every_kind_come_back(backend, operation, loss):
    """Expanded and transposed ones, and of one output of two."""
    assert_equal(operation, ARGUMENTS[operation](2, (3, 4)), backend, loss)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('sizes', [(5, ), (3, 5)], ids=str)
def test_an_expanded_gradient_passes_the_mean(backend, layout, sizes):
    assert_equal('mixing', mixing_arguments(2, (3, 4), sizes, layout, scored=False), backend, LOSSES['expanded'])


def every_argument():
    for operation, options in (('norm_conv', {}), ('out_conv', dict(scaled=True)), ('out_conv', dict(scaled=False)),
                               ('mixing', dict(sizes=(3, 5))), ('mixing', dict(sizes=(3, 5), scored=False))):
        for name in tensors(ARGUMENTS[operation](1, (1, 1), **options)):
            yield operation, options, name


@pytest.mark.parametrize('alone', [True, False], ids=['alone', 'all others'])
@pytest.mark.parametrize('operation, options, name', every_argument(), ids=str)
def test_gradients_that_nothing_needs_change_nothing(backend, operation, options, name, alone):
    arguments = ARGUMENTS[operation](2, (3, 4), **options)
    for other, tensor in tensors(arguments).items():
        tensor.requires_grad_((other == name) == alone)
    assert_equal(operation, arguments, backend)


@OPERATIONS
def test_a_backward_under_autocast_is_exact(backend, operation):
    """The gradient of a loss may be asked for where autocast is on, although the operation ran where it was not."""
    arguments = {
        name: value.detach().float().requires_grad_() if isinstance(value, torch.Tensor) else value
        for name, value in ARGUMENTS[operation](2, (3, 4)).items()
    }
    if 'kernels' in arguments:
        arguments['kernels'] = [kernel.detach().float().requires_grad_() for kernel in arguments['kernels']]
    with use_backend(backend):
        outs = FUNCTIONS[operation](**arguments)
    outs = outs if isinstance(outs, tuple) else (outs, )
    grads, wanted = [torch.randn_like(out) for out in outs], list(tensors(arguments).values())
    expected = torch.autograd.grad(outs, wanted, grads, retain_graph=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = torch.autograd.grad(outs, wanted, grads)
    assert all(torch.equal(*pair) for pair in zip(found, expected))


@OPERATIONS
def test_nothing_is_changed_in_place(backend, operation):
    arguments = ARGUMENTS[operation](2, (3, 4))
    before = {name: tensor.detach().clone() for name, tensor in tensors(arguments).items()}
    with use_backend(backend):
        outs = FUNCTIONS[operation](**arguments)
    outs = outs if isinstance(outs, tuple) else (outs, )
    values, grads = [out.detach().clone() for out in outs], [torch.randn_like(out) for out in outs]
    kept = [grad.clone() for grad in grads]
    torch.autograd.backward(outs, grads)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(arguments).items())
    assert all(torch.equal(grad, copy) for grad, copy in zip(grads, kept))
    assert all(torch.equal(out, value) for out, value in zip(outs, values))


def perturbed(**options):
    """An adapter and its experts in float64."""
    adapter, center = adapter_and_center(**options)
    perturb(adapter, center)
    return adapter.double(), center.double()


def trained(adapter, center):
    return {**dict(adapter.named_parameters()), **{f'center.{name}': value for name, value in center.named_parameters()}}


ADAPTERS = [{},
            dict(kernel_sizes=()),
            dict(kernel_sizes=(5, )),
            dict(kernel_sizes=(3, 3, 3), spatial_aggregation=False),
            dict(conv_layout='parallel'),
            dict(conv_layout='sequential_no_residual', router_activation='sigmoid'),
            dict(shortcut_scale=False, layer_scale_init=1e-5)]


@pytest.mark.parametrize('options', ADAPTERS, ids=str)
@pytest.mark.parametrize('batch, needs_grad', [(1, True), (3, True), (3, False)])
def test_an_adapter_is_that_of_the_reference(backend, options, batch, needs_grad):
    """Also behind a frozen stem, whose output needs no gradient."""
    adapter, center = perturbed(**options)
    x = leaf(batch, 35, 12).requires_grad_(needs_grad)
    wanted = {**trained(adapter, center), **(dict(x=x) if needs_grad else {})}
    found = {}
    for each in ('reference', backend):
        with use_backend(each):
            out = adapter(x, (5, 7))
        found[each] = dict(zip(wanted, torch.autograd.grad(out.sin().sum(), list(wanted.values()))), out=out)
    for name, value in found['reference'].items():
        # A chain of three operations, whose intermediate values reach some thousand.
        torch.testing.assert_close(found[backend][name], value, rtol=1e-10, atol=1e-9, msg=name)


@ALL_BACKENDS
def test_what_follows_an_adapter_may_work_in_place(backend):
    adapter, _ = perturbed()
    x = leaf(2, 35, 12)
    with use_backend(backend):
        out = adapter(x, (5, 7))
        expected, = torch.autograd.grad((2 * out + 1).sin().sum(), x, retain_graph=True)
        out.mul_(2).add_(1)
    found, = torch.autograd.grad(out.sin().sum(), x)
    torch.testing.assert_close(found, expected, **CLOSE)


@ALL_BACKENDS
def test_every_parameter_has_a_gradient_of_its_own(backend):
    """Clipping scales each in place: two that share memory would be scaled twice."""
    adapter, center = perturbed()
    with use_backend(backend):
        adapter(leaf(2, 35, 12), (5, 7)).sum().backward()
    addresses = [parameter.grad.data_ptr() for parameter in trained(adapter, center).values()]
    assert len(addresses) == len(set(addresses))


def test_a_saved_tensor_that_was_changed_is_noticed(backend):
    adapter, _ = perturbed()
    x = leaf(2, 35, 12) + 0
    with use_backend(backend):
        out = adapter(x, (5, 7))
    x.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


# ---- arguments on which no kernel could rely ----

CHANGES = {
    'another width': lambda tensor: tensor[:-1],
    'another number of axes': lambda tensor: tensor[None],
    'another precision': lambda tensor: tensor.float(),
    'another device': lambda tensor: tensor.to('meta'),
}


@ALL_BACKENDS
@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('operation, name', [(operation, name) for operation, make in ARGUMENTS.items()
                                             for name in tensors(make(2, (3, 4))) if name not in ('x', 'y', 'z')])
def test_an_argument_that_does_not_belong_is_refused(operation, name, change, backend):
    arguments = ARGUMENTS[operation](2, (3, 4))
    if name.startswith('kernel'):
        kernels = list(arguments['kernels'])
        kernels[int(name[6:])] = CHANGES[change](kernels[int(name[6:])].detach())
        arguments['kernels'], name = kernels, f'kernels[{name[6:]}]'
    else:
        arguments[name] = CHANGES[change](arguments[name].detach())
    with use_backend(backend), pytest.raises(ParameterError) as caught:
        FUNCTIONS[operation](**arguments)
    assert caught.value.parameter == name


@ALL_BACKENDS
@OPERATIONS
@pytest.mark.parametrize('batch, hw, allowed', [(0, (3, 4), 'at least one image'), (2, (0, 4), 'at least one image'),
                                                (2, (5, 4), 'no map of that size')])
def test_tokens_that_are_no_map_are_refused(operation, batch, hw, allowed, backend):
    arguments = ARGUMENTS[operation](batch, (3, 4) if hw == (5, 4) else hw)
    arguments['hw'] = hw
    with use_backend(backend), pytest.raises(ParameterError, match=allowed):
        FUNCTIONS[operation](**arguments)
