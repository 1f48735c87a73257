"""The fused operations of AdaRoute's adapter are the eager ones, in value and in every gradient."""
import runpy
from types import SimpleNamespace

import pytest
import torch
from cases import adapter_and_center, perturb

from mmparax.errors import ParameterError
from mmparax.ops import mixing, norm_conv, out_conv, paths
from mmparax.ops.paths import PATHS, path_for, use_path

# Float64 rounds by 1e-16, and no sum here has more than some thousand terms of about 1: what differs by rounding alone
# differs by less than 1e-11, and a wrong term by far more.
CLOSE = dict(rtol=1e-11, atol=1e-11)
MAPS = [(5, 7), (1, 9), (1, 1)]
KERNEL_SETS = [(3, 5, 7), (5, ), (3, 3, 3), (5, 7, 9)]
FUNCTIONS = dict(norm_conv=norm_conv.scaled_norm_conv, mixing=mixing.mix_spatially, out_conv=out_conv.conv_scale_shortcut)
FUSED = dict(norm_conv=norm_conv.ScaledNormConv, mixing=mixing.MixSpatially, out_conv=out_conv.ConvScaleShortcut)


@pytest.fixture(autouse=True)
def automatic():
    with use_path('auto'):
        yield


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
                layout=layout, score_weight=leaf(count, channels) if scored else None,
                score_bias=leaf(count) if scored else None)


ARGUMENTS = dict(norm_conv=norm_conv_arguments, mixing=mixing_arguments, out_conv=out_conv_arguments)
OPERATIONS = pytest.mark.parametrize('operation', list(ARGUMENTS))


def tensors(arguments):
    """Name -> tensor, of every tensor among the arguments."""
    flat = {**arguments, **{f'kernel{i}': kernel for i, kernel in enumerate(arguments.get('kernels', ()))}}
    return {name: value for name, value in flat.items() if isinstance(value, torch.Tensor)}


def results(operation, arguments, path, loss=None):
    """Outputs and gradients by one path; the loss weighs every number of every output differently, if it is not given."""
    if loss is None:
        def loss(outs):
            generator = torch.Generator().manual_seed(7)
            return sum((out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum() for out in outs)
    with use_path(path):
        outs = FUNCTIONS[operation](**arguments)
    outs = outs if isinstance(outs, tuple) else (outs, )
    assert (FUSED[operation].__name__ in outs[0].grad_fn.name()) == (path == 'fused')
    wanted = {name: tensor for name, tensor in tensors(arguments).items() if tensor.requires_grad}
    grads = torch.autograd.grad(loss(outs), list(wanted.values()))
    return {**{f'output {i}': out for i, out in enumerate(outs)}, **dict(zip(wanted, grads))}


def assert_equal(operation, arguments, loss=None):
    expected, found = (results(operation, arguments, path, loss) for path in ('eager', 'fused'))
    assert len(expected) > 1
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **CLOSE, msg=lambda text, name=name: f'{name}: {text}')


@pytest.mark.parametrize('hw', MAPS, ids=str)
@pytest.mark.parametrize('batch', [1, 3])
def test_norm_conv_is_the_eager_one(batch, hw):
    assert_equal('norm_conv', norm_conv_arguments(batch, hw))


@pytest.mark.parametrize('hw', MAPS, ids=str)
@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('scaled', [True, False])
def test_out_conv_is_the_eager_one(batch, hw, scaled):
    assert_equal('out_conv', out_conv_arguments(batch, hw, scaled))


@pytest.mark.parametrize('hw', MAPS, ids=str)
@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('sizes', KERNEL_SETS, ids=str)
@pytest.mark.parametrize('layout', mixing.LAYOUTS)
@pytest.mark.parametrize('scored', [True, False])
def test_mixing_is_the_eager_one(batch, hw, sizes, layout, scored):
    assert_equal('mixing', mixing_arguments(batch, hw, sizes, layout, scored and len(sizes) > 1))


@pytest.mark.full
@OPERATIONS
@pytest.mark.parametrize('hw', [(17, 19), (2, 33), (40, 1)], ids=str)
@pytest.mark.parametrize('batch', [1, 4])
@pytest.mark.parametrize('channels', [1, 33])
def test_larger_maps_are_the_eager_ones(operation, hw, batch, channels):
    assert_equal(operation, ARGUMENTS[operation](batch, hw, channels=channels))


GRADCHECKS = [('norm_conv', {}), ('out_conv', dict(scaled=True)), ('out_conv', dict(scaled=False))]
GRADCHECKS += [('mixing', dict(sizes=(3, 5), layout=layout, scored=scored))
               for layout in mixing.LAYOUTS for scored in (True, False)]
GRADCHECKS += [('mixing', dict(sizes=(5, ), scored=False)), ('mixing', dict(sizes=(3, 3, 3)))]


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('operation, options', GRADCHECKS, ids=str)
def test_gradients_are_those_of_small_differences(operation, options, batch):
    arguments = ARGUMENTS[operation](batch, (2, 3), channels=2, **options)
    named = tensors(arguments)

    def function(*values):
        given = {**arguments, **dict(zip(named, values))}
        if 'kernels' in given:
            given['kernels'] = [given.pop(name) for name in named if name.startswith('kernel')]
        with use_path('fused'):
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
def test_tokens_need_not_be_contiguous(operation, layout, batch):
    arguments = ARGUMENTS[operation](batch, (3, 4))
    arguments = {name: layout(value) if isinstance(value, torch.Tensor) and value.ndim == 3 else value
                 for name, value in arguments.items()}
    assert not all(value.is_contiguous() for value in tensors(arguments).values()) or batch == 1
    assert_equal(operation, arguments)


LOSSES = dict(
    expanded=lambda outs: sum(out.sum() for out in outs),
    transposed=lambda outs: sum((out.flatten(1, -2).transpose(1, -1).contiguous() if out.ndim == 3 else out).sin().sum()
                                for out in outs),
    first_alone=lambda outs: outs[0].sin().sum(),
    last_alone=lambda outs: outs[-1].sin().sum(),
)


@OPERATIONS
@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_gradients_of_every_kind_come_back(operation, loss):
    """Expanded and transposed ones, and of one output of two."""
    assert_equal(operation, ARGUMENTS[operation](2, (3, 4)), loss)


@pytest.mark.parametrize('layout', mixing.LAYOUTS)
@pytest.mark.parametrize('sizes', [(5, ), (3, 5)], ids=str)
def test_an_expanded_gradient_passes_the_mean(layout, sizes):
    assert_equal('mixing', mixing_arguments(2, (3, 4), sizes, layout, scored=False), LOSSES['expanded'])


def every_argument():
    for operation, options in (('norm_conv', {}), ('out_conv', dict(scaled=True)), ('out_conv', dict(scaled=False)),
                               ('mixing', dict(sizes=(3, 5))), ('mixing', dict(sizes=(3, 5), scored=False))):
        for name in tensors(ARGUMENTS[operation](1, (1, 1), **options)):
            yield operation, options, name


@pytest.mark.parametrize('alone', [True, False], ids=['alone', 'all others'])
@pytest.mark.parametrize('operation, options, name', every_argument(), ids=str)
def test_gradients_that_nothing_needs_change_nothing(operation, options, name, alone):
    arguments = ARGUMENTS[operation](2, (3, 4), **options)
    for other, tensor in tensors(arguments).items():
        tensor.requires_grad_((other == name) == alone)
    assert_equal(operation, arguments)


@OPERATIONS
def test_a_backward_under_autocast_is_exact(operation):
    """The gradient of a loss may be asked for where autocast is on, although the operation ran where it was not."""
    arguments = {name: value.detach().float().requires_grad_() if isinstance(value, torch.Tensor) else value
                 for name, value in ARGUMENTS[operation](2, (3, 4)).items()}
    if 'kernels' in arguments:
        arguments['kernels'] = [kernel.detach().float().requires_grad_() for kernel in arguments['kernels']]
    with use_path('fused'):
        outs = FUNCTIONS[operation](**arguments)
    outs = outs if isinstance(outs, tuple) else (outs, )
    grads, wanted = [torch.randn_like(out) for out in outs], list(tensors(arguments).values())
    expected = torch.autograd.grad(outs, wanted, grads, retain_graph=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = torch.autograd.grad(outs, wanted, grads)
    assert all(torch.equal(*pair) for pair in zip(found, expected))


@OPERATIONS
def test_nothing_is_changed_in_place(operation):
    arguments = ARGUMENTS[operation](2, (3, 4))
    before = {name: tensor.detach().clone() for name, tensor in tensors(arguments).items()}
    with use_path('fused'):
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


ADAPTERS = [dict(), dict(kernel_sizes=()), dict(kernel_sizes=(5, )), dict(kernel_sizes=(3, 3, 3), spatial_aggregation=False),
            dict(conv_layout='parallel'), dict(conv_layout='sequential_no_residual', router_activation='sigmoid'),
            dict(shortcut_scale=False, layer_scale_init=1e-5)]


@pytest.mark.parametrize('options', ADAPTERS, ids=str)
@pytest.mark.parametrize('batch, needs_grad', [(1, True), (3, True), (3, False)])
def test_an_adapter_is_the_same_on_both_paths(options, batch, needs_grad):
    """Also behind a frozen stem, whose output needs no gradient."""
    adapter, center = perturbed(**options)
    x = leaf(batch, 35, 12).requires_grad_(needs_grad)
    wanted = {**trained(adapter, center), **(dict(x=x) if needs_grad else {})}
    found = {}
    for path in ('eager', 'fused'):
        with use_path(path):
            out = adapter(x, (5, 7))
        found[path] = dict(zip(wanted, torch.autograd.grad(out.sin().sum(), list(wanted.values()))), out=out)
    for name, value in found['eager'].items():
        # A chain of three operations, whose intermediate values reach some thousand.
        torch.testing.assert_close(found['fused'][name], value, rtol=1e-10, atol=1e-9, msg=name)


@pytest.mark.parametrize('path', ['eager', 'fused'])
def test_what_follows_an_adapter_may_work_in_place(path):
    adapter, _ = perturbed()
    x = leaf(2, 35, 12)
    with use_path(path):
        out = adapter(x, (5, 7))
        expected, = torch.autograd.grad((2 * out + 1).sin().sum(), x, retain_graph=True)
        out.mul_(2).add_(1)
    found, = torch.autograd.grad(out.sin().sum(), x)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize('path', ['eager', 'fused'])
def test_every_parameter_has_a_gradient_of_its_own(path):
    """Clipping scales each in place: two that share memory would be scaled twice."""
    adapter, center = perturbed()
    with use_path(path):
        adapter(leaf(2, 35, 12), (5, 7)).sum().backward()
    addresses = [parameter.grad.data_ptr() for parameter in trained(adapter, center).values()]
    assert len(addresses) == len(set(addresses))


def test_a_saved_tensor_that_was_changed_is_noticed():
    adapter, _ = perturbed()
    x = leaf(2, 35, 12) + 0
    with use_path('fused'):
        out = adapter(x, (5, 7))
    x.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


# ---- which path is taken ----


def test_an_unknown_path_is_named_with_the_known_ones():
    with pytest.raises(ParameterError, match="path='fast' is not allowed: .*" + '.*'.join(PATHS)):
        with use_path('fast'):
            raise AssertionError('never entered')
    assert path_for(torch.zeros(1)) == 'fused'


def test_the_environment_variable_chooses_and_is_checked(monkeypatch):
    monkeypatch.setenv('MMPARAX_OPS', 'eager')
    fresh = runpy.run_path(paths.__file__)
    assert fresh['path_for'](torch.zeros(1)) == 'eager'
    monkeypatch.setenv('MMPARAX_OPS', 'quick')
    with pytest.raises(ParameterError, match="^MMPARAX_OPS='quick' is not allowed: choose one of 'auto', .*'triton'.$"):
        runpy.run_path(paths.__file__)


@pytest.mark.parametrize('path', ['auto', 'fused'])
def test_half_precision_runs_eagerly(path):
    x = torch.zeros(1)
    with use_path(path):
        assert path_for(x) == path_for(x.double()) == 'fused'
        assert path_for(x.bfloat16()) == path_for(x.half()) == 'eager'
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert path_for(x) == 'eager'
            with torch.autocast('cpu', enabled=False):
                assert path_for(x) == 'fused'


@pytest.mark.parametrize('path', PATHS)
def test_compiled_and_exported_graphs_are_eager(path, monkeypatch):
    with use_path(path):
        traced = []
        torch.jit.trace(lambda x: traced.append(path_for(x)) or x + 1, torch.zeros(1), check_trace=False)
        assert traced == ['eager']
        monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
        assert path_for(torch.zeros(1)) == 'eager'


@pytest.mark.parametrize('installed, toolkit, capability, expected', [
    (True, '12.8', (8, 0), True), (True, '12.8', (9, 0), True), (True, '12.8', (7, 5), False), (True, None, (9, 4), False),
    (False, '12.8', (9, 0), False)])
def test_triton_runs_on_gpus_that_it_compiles_for(installed, toolkit, capability, expected, monkeypatch):
    monkeypatch.setattr(paths, 'has_triton', lambda: installed)
    monkeypatch.setattr(torch.version, 'cuda', toolkit)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert paths.runs_triton.__wrapped__(torch.device('cuda:0')) == expected


@pytest.mark.parametrize('runs_triton, dtype, expected', [
    (True, torch.float32, 'triton'), (True, torch.float16, 'triton'), (True, torch.float64, 'fused'),
    (False, torch.float32, 'fused'), (False, torch.bfloat16, 'eager')])
def test_a_gpu_takes_triton_where_it_can(runs_triton, dtype, expected, monkeypatch):
    monkeypatch.setattr(paths, 'runs_triton', lambda device: runs_triton)
    on_gpu = SimpleNamespace(is_cuda=True, dtype=dtype, device=torch.device('cuda'))
    assert path_for(on_gpu) == expected
    with use_path('eager'):
        assert path_for(on_gpu) == 'eager'


def test_nested_choices_end_where_they_began():
    x = torch.zeros(1)
    with use_path('eager'):
        with pytest.raises(KeyError):
            with use_path('fused'):
                assert path_for(x) == 'fused'
                raise KeyError
        assert path_for(x) == 'eager'
    assert path_for(x) == 'fused'
