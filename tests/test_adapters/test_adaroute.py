"""AdaRoute against the public implementation, its options, its numerical safety and its error messages."""
import copy

import pytest
import torch

from helpers.cases import adapter_and_center, block_info, perturb
from helpers.golden_files import Golden
from mmparax.adapters import AdaRoute
from mmparax.ops.dispatch import use_backend

GOLDENS = {
    'adaroute_full_357': {}, 'adaroute_no_dynamic_conv': {}, 'adaroute_single_k5': {},
    'adaroute_det_swin_b': dict(shortcut_scale=False)
}
KERNEL_SETS = [(), (1, ), (5, ), (3, 5), (3, 3, 3), (3, 5, 7), (5, 7, 9)]


@pytest.mark.parametrize('path', ['reference', 'fused', 'cpu'])
@pytest.mark.parametrize('name', GOLDENS)
def test_equals_reference(name, path):
    golden = Golden(name)
    adapter, center = adapter_and_center(golden['input'].shape[-1], golden['config.num_experts'],
                                         hidden_dim=golden['config.hidden_dim'], router_dim=golden['config.router_dim'],
                                         kernel_sizes=golden['config.kernel_sizes'], **GOLDENS[name])
    adapter.double(), center.double()
    params = golden.group('param.')
    if name == 'adaroute_single_k5':  # the reference keeps an aggregation that a single kernel cannot use
        params = {key: value for key, value in params.items() if not key.startswith('aggregation.')}
    adapter.load_state_dict(params)
    experts = dict(down=golden['expert.down'], up=golden['expert.up'])
    names = {f'kernels.{i}': f'kernel{size}' for i, size in enumerate(golden['config.kernel_sizes'])}
    center.load_state_dict({**experts, **{own: golden[f'expert.{theirs}'] for own, theirs in names.items()}})
    x = golden['input'].requires_grad_()
    with use_backend(path):
        out = adapter(x, golden['H_W'])
    out.backward(golden['grad_output'])
    close = dict(rtol=0, atol=1e-9)
    torch.testing.assert_close(out, golden['output'], **close)
    torch.testing.assert_close(x.grad, golden['grad_input'], **close)
    for key, parameter in adapter.named_parameters():
        torch.testing.assert_close(parameter.grad, golden[f'grad.param.{key}'], **close, msg=key)
    for key, parameter in center.named_parameters():
        torch.testing.assert_close(parameter.grad, golden[f'grad.expert.{names.get(key, key)}'], **close, msg=key)


@pytest.mark.parametrize('layout', ['sequential', 'sequential_no_residual', 'parallel'])
@pytest.mark.parametrize('kernels', KERNEL_SETS, ids=str)
@pytest.mark.parametrize('sa', [True, False])
def test_every_parameter_gets_a_gradient(layout, kernels, sa):
    adapter, center = adapter_and_center(kernel_sizes=kernels, conv_layout=layout, spatial_aggregation=sa)
    perturb(adapter, center)
    adapter(torch.randn(2, 30, 12), (5, 6)).square().sum().backward()
    for module in (adapter, center):
        for key, parameter in module.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize('hw', [(1, 1), (1, 7), (9, 4), (5, 5)], ids=str)
@pytest.mark.parametrize('layout', ['sequential', 'sequential_no_residual', 'parallel'])
def test_samples_of_a_batch_do_not_mix(hw, layout):
    adapter, center = adapter_and_center(conv_layout=layout)
    perturb(adapter, center)
    adapter.double(), center.double()
    x = torch.randn(3, hw[0] * hw[1], 12, dtype=torch.float64)
    together = adapter(x, hw)
    alone = torch.cat([adapter(sample[None], hw) for sample in x])
    assert together.shape == x.shape
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-11)


def test_height_and_width_are_not_exchanged():
    adapter, center = adapter_and_center()
    perturb(adapter, center)
    x = torch.randn(1, 12, 12)
    transposed = x.view(1, 3, 4, 12).transpose(1, 2).reshape(1, 12, 12)
    flipped = copy.deepcopy(adapter)
    with torch.no_grad():
        for parameter in [*flipped.parameters(), *flipped.center.parameters()]:
            if parameter.ndim >= 4:
                parameter.copy_(parameter.transpose(-1, -2).clone())
    expected = adapter(x, (3, 4)).view(1, 3, 4, 12).transpose(1, 2).reshape(1, 12, 12)
    torch.testing.assert_close(flipped(transposed, (4, 3)), expected)


def direct_formula(adapter, center, x, hw, layout, sa, activation):
    """The adapter written once more, sample by sample and with plain loops (method, steps 1-11)."""
    outputs = []
    for sample in x:
        conv = lambda tokens, layer: torch.nn.functional.conv2d(  # noqa: E731
            tokens.T.reshape(1, -1, *hw), layer.weight, layer.bias, padding=1, groups=len(layer.bias))[0].flatten(1).T
        t = sample + adapter.norm_scale * adapter.norm(sample)
        t = t + conv(t, adapter.dwconv_in)
        hidden = torch.nn.functional.gelu(adapter.router.reduce(t.mean(0)))
        groups = adapter.router.gates(hidden).view(-1, center.num_experts)
        gates = groups.softmax(1) if activation == 'softmax' else groups.sigmoid()
        mixed = [
            sum(g * e for g, e in zip(gate, experts)) for gate, experts in zip(gates, [center.down, center.up, *center.kernels])
        ]
        z0 = (t @ mixed[0].T).T.reshape(1, -1, *hw)
        dynamic = lambda z, kernel: torch.nn.functional.conv2d(  # noqa: E731
            z, kernel, padding=kernel.shape[-1] // 2, groups=z.shape[1])
        ys = []
        for i, kernel in enumerate(mixed[2:]):
            if i == 0 or layout == 'parallel':
                source = z0
            elif layout == 'sequential':
                source = adapter.stage_mix[2 * (i - 1)] * z0 + adapter.stage_mix[2 * (i - 1) + 1] * ys[-1]
            else:
                source = adapter.stage_mix[i - 1] * ys[-1]
            ys.append(dynamic(source, kernel))
        if sa and len(ys) > 1:
            scores = adapter.aggregation(sum(ys)[0].permute(1, 2, 0)).softmax(-1)
            s = sum(scores[..., i] * y for i, y in enumerate(ys))
        else:
            s = sum(ys) / len(ys) if ys else z0
        z = (s + z0)[0].flatten(1).T
        z = torch.nn.functional.gelu(z + adapter.latent_proj(z))
        y = z @ mixed[1].T
        y = y + conv(y, adapter.dwconv_out)
        shortcut = sample
        if adapter.shortcut_scale is not None:
            shortcut = adapter.shortcut_scale * sample + adapter.shortcut_bias
        outputs.append(adapter.layer_scale * y + adapter.layer_bias + shortcut)
    return torch.stack(outputs)


@pytest.mark.parametrize('layout', ['sequential', 'sequential_no_residual', 'parallel'])
@pytest.mark.parametrize('sa', [True, False])
@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('kernels', [(), (5, ), (3, 3, 3), (5, 7)], ids=str)
def test_options_follow_the_method(layout, sa, activation, kernels):
    adapter, center = adapter_and_center(kernel_sizes=kernels, conv_layout=layout, spatial_aggregation=sa,
                                         router_activation=activation)
    perturb(adapter, center)
    adapter.double(), center.double()
    x = torch.randn(2, 20, 12, dtype=torch.float64)
    torch.testing.assert_close(adapter(x, (4, 5)), direct_formula(adapter, center, x, (4, 5), layout, sa, activation), rtol=0,
                               atol=1e-11)


@pytest.mark.parametrize('init', ['trunc_normal', 'kaiming_normal', 'kaiming_uniform'])
def test_experts_are_initialised_one_by_one(init):
    torch.manual_seed(0)
    _, center = adapter_and_center(dim=256, experts=4, hidden_dim=128, expert_init=init, kernel_sizes=(3, 7))
    fan_in = {'down': 256, 'up': 128, 'kernels.0': 9, 'kernels.1': 49}
    for key, parameter in center.named_parameters():
        expected = 0.02 if init == 'trunc_normal' else (2 / fan_in[key])**0.5
        for expert in parameter:
            assert abs(expert.std().item() / expected - 1) < 0.1, key
    assert not torch.equal(center.down[0], center.down[1])


@pytest.mark.parametrize('init', ['kaiming_uniform', 'trunc_normal'])
def test_layer_init_is_the_family_s(init):
    torch.manual_seed(0)
    adapter, _ = adapter_and_center(dim=512, linear_init=init, router_dim=64)
    expected = 0.02 if init == 'trunc_normal' else 1 / (3 * 512)**0.5
    assert abs(adapter.router.reduce.weight.std().item() / expected - 1) < 0.05
    assert adapter.dwconv_in.bias.abs().max() == 0 and adapter.norm_scale.eq(1e-5).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('scale', [1., 300.])
def test_autocast_stays_finite_and_close(dtype, scale):
    torch.manual_seed(0)
    adapter, center = adapter_and_center(dim=32, experts=4)
    x = scale * torch.randn(2, 35, 32)
    exact = adapter(x, (5, 7))
    with torch.autocast('cpu', dtype=dtype):
        half = adapter(x, (5, 7))
    half.float().sum().backward()
    assert half.isfinite().all()
    torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.05 * scale)
    for parameter in (*adapter.parameters(), *center.parameters()):
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_router_is_computed_in_single_precision(dtype):
    adapter, _ = adapter_and_center(dim=32)
    with torch.no_grad():
        adapter.router.gates.weight.mul_(200.)
    mean = torch.randn(2, 32)
    with torch.autocast('cpu', dtype=dtype):
        gates = adapter.router(mean)
    exact = adapter.router(mean)
    for gate, expected in zip(gates, exact):
        assert gate.dtype == torch.float32
        assert torch.equal(gate, expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('path', ['reference', 'fused', 'cpu'])
def test_the_mean_for_the_router_is_summed_in_single_precision(dtype, path):
    """A sum of this many numbers in half precision overflows, or stops growing."""
    adapter, _ = adapter_and_center(dim=4, experts=1)
    x = torch.full((1, 4096, 4), 50., dtype=dtype)
    with use_backend(path):
        for enabled in (True, False):
            with torch.autocast('cpu', dtype=dtype, enabled=enabled):
                tokens, mean = (adapter if enabled else copy.deepcopy(adapter).to(dtype)).start(x, (64, 64))
            assert mean.dtype == torch.float32
            torch.testing.assert_close(mean, tokens.double().mean(1).float(), rtol=1e-5, atol=0)


BAD = [
    (dict(hidden_dim=0), 'hidden_dim=0'),
    (dict(hidden_dim=8.), 'hidden_dim=8.0'),
    (dict(router_dim=-1), 'router_dim=-1'),
    (dict(kernel_sizes=(3, 4)), r'kernel_sizes=\(3, 4\)'),
    (dict(kernel_sizes=(0, )), 'kernel_sizes='),
    (dict(kernel_sizes=(-3, )), 'kernel_sizes='),
    (dict(kernel_sizes=3), 'kernel_sizes=3'),
    (dict(kernel_sizes='357'), "kernel_sizes='357'"),
    (dict(experts_per_layer=0), 'experts_per_layer=0'),
    (dict(experts_per_layer=float('nan')), 'experts_per_layer=nan'),
    (dict(layers_per_center=0), 'layers_per_center=0'),
    (dict(conv_layout='serial'), "conv_layout='serial'.*'parallel'"),
    (dict(router_activation='relu'), "router_activation='relu'.*'sigmoid'"),
    (dict(expert_init='zeros'), "expert_init='zeros'.*'kaiming_normal'"),
    (dict(sites=('linear:q', )), r"sites=\['linear:q'\].*after_token_mixer"),
    (dict(sites=()), r'sites=\[\]'),
]


@pytest.mark.parametrize('options, message', BAD, ids=[str(options) for options, _ in BAD])
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        AdaRoute(**options)


def test_too_few_experts_and_uneven_groups_are_named():
    infos = [block_info(depth=6, index=index) for index in range(6)]
    with pytest.raises(ValueError, match='experts_per_layer=0.1 .*gives no expert.*at least 0.16'):
        AdaRoute(experts_per_layer=0.1).build_centers(infos)
    with pytest.raises(ValueError, match='layers_per_center=4 .*6 blocks.*divisor of 6'):
        AdaRoute(layers_per_center=4).build_centers(infos)


@pytest.mark.parametrize('ratio, group, experts', [(4, None, [24]), (0.5, None, [3]), (1.0, 3, [3, 3]), (0.5, 2, [1, 1, 1]),
                                                   (1.0, 18, [6])])
def test_experts_per_center(ratio, group, experts):
    infos = [block_info(depth=6, index=index) for index in range(6)]
    centers = AdaRoute(hidden_dim=4, experts_per_layer=ratio, layers_per_center=group).build_centers(infos)
    assert [center.num_experts for center, _ in centers] == experts
    assert sum(count for _, count in centers) == 6
