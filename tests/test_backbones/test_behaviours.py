"""What holds for every method on every backbone."""
import copy
import io
import pickle

import pytest
import torch

from helpers.cases import BACKBONES, CASES, METHODS, UPSTREAM_OPERATIONS, images
from helpers.cases import build as build_any
from mmparax.backbones.block import find_adapter_modules
from mmparax.backbones.parameters import count_parameters
from mmparax.backbones.roles import Role

# The options of AdaRoute meet every family in `make test-full`; here one family stands for all.
OPTIONS = ('adaroute-no-kernels', 'adaroute-single', 'adaroute-parallel', 'adaroute-no-residual', 'adaroute-no-sa',
           'adaroute-sigmoid', 'adaroute-groups', 'adaroute-detection', 'adaroute-one-site')
pytestmark = pytest.mark.parametrize('method, backbone', [
    pytest.param(method, backbone, marks=[pytest.mark.full] if method in OPTIONS and backbone != 'swin' else [])
    for method, backbone in CASES
])

# Two stages of two blocks: all kinds of layers, and experts to choose from.
SMALL = dict(swin=dict(arch=dict(embed_dims=8, depths=[2, 2], num_heads=[1, 2]), out_indices=(0, 1)),
             convnext=dict(arch=dict(channels=[8, 16], depths=[2, 2]), out_indices=(0, 1)), vit={}, mit={})


def small(method, backbone):
    """Options of a backbone with few blocks; groups of blocks in a stage need more."""
    return SMALL[backbone] if method != 'adaroute-groups' else {}


def build(method, backbone, **options):
    return build_any(method, backbone, **small(method, backbone), **options)


def perturb(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def backward(loss):
    if loss.requires_grad:  # a frozen ViT has no norm on its outputs: nothing in it is trainable
        loss.backward()


def grads(model, x):
    model.zero_grad()
    torch.manual_seed(0)  # dropout
    backward(sum(out.square().mean() for out in model(x)))
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_gradients_exactly_on_trainable_parameters(method, backbone):
    model = perturb(build(method, backbone))
    roles, parameters = model.parameter_roles(), dict(model.named_parameters())
    for name, grad in grads(model, images(backbone)).items():
        trainable = roles[name] is not Role.BASE
        assert parameters[name].requires_grad == trainable, name
        assert (grad is not None) == trainable, name
        if trainable:
            assert grad.isfinite().all() and grad.abs().max() > 0, name


def test_equals_upstream_at_the_start_where_promised(method, backbone):
    cls, options, _ = BACKBONES[backbone]
    options = {**options, **small(method, backbone)}
    model = build(method, backbone, **UPSTREAM_OPERATIONS[backbone]).eval()
    upstream = cls.upstream(**{**cls.upstream_defaults(options), **options})
    missing, unexpected = upstream.load_state_dict(model.state_dict(), strict=False)
    assert not missing  # base keys are upstream's
    upstream.requires_grad_(False)  # torch has other convolution kernels for what is frozen
    upstream.eval()
    pairs, promise = list(zip(upstream(images(backbone)), model(images(backbone)))), METHODS[method][1]
    if promise == 'rounding':  # the stream lies channels-last in memory from the first adapter on
        for expected, out in pairs:
            torch.testing.assert_close(out, expected)
    else:
        assert all(torch.equal(a, b) for a, b in pairs) == promise


def test_with_cp_changes_nothing(method, backbone):
    plain, checkpointed = perturb(build(method, backbone)), build(method, backbone, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    expected, found = grads(plain, images(backbone)), grads(checkpointed, images(backbone))
    for name, grad in expected.items():
        if grad is None:
            assert found[name] is None
        else:
            torch.testing.assert_close(found[name], grad, msg=name)


def test_with_cp_recomputes_every_block_through_which_gradients_pass(method, backbone):
    model = build(method, backbone, with_cp=True).train()
    calls, outputs = [], []
    blocks = [block for stage in model.stage_blocks() for block in stage]
    for block in blocks:  # a norm that runs once in every block, whatever the method
        norm = next(getattr(block, name) for name in ('norm2', 'ln2', 'norm') if hasattr(block, name))
        norm.register_forward_hook(lambda *_, block=block: calls.append(block))
        block.register_forward_hook(lambda *args: outputs.append(args[-1]))
    grads(model, images(backbone))
    # With Frozen, only norms behind the blocks are trainable: no block is in a graph, saves activations or runs again.
    frozen = method == 'frozen'
    assert len(outputs) == len(blocks) and all(output.requires_grad != frozen for output in outputs)
    assert sorted(map(id, calls)) == sorted(map(id, blocks if frozen else 2 * blocks))


def test_deepcopy_is_independent_and_linked_within_itself(method, backbone):
    model = perturb(build(method, backbone)).eval()
    x = images(backbone)
    before = [out.clone() for out in model(x)]
    other = copy.deepcopy(model)
    assert all(torch.equal(a, b) for a, b in zip(before, other(x)))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    assert all(torch.equal(a, b) for a, b in zip(before, model(x)))
    centers = {id(center) for stage in other.expert_centers for center in stage}
    for _, module in find_adapter_modules(other):
        if hasattr(module, 'center'):
            assert id(module.center) in centers


def test_pickle_round_trip(method, backbone):
    model = perturb(build(method, backbone)).eval()
    buffer = io.BytesIO()
    pickle.dump(model, buffer)
    buffer.seek(0)
    other = pickle.load(buffer)
    assert all(torch.equal(a, b) for a, b in zip(model(images(backbone)), other(images(backbone))))


def test_state_dict_round_trip(method, backbone):
    model, other = perturb(build(method, backbone)).eval(), build(method, backbone).eval()
    result = other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert not result.missing_keys and not result.unexpected_keys
    assert all(torch.equal(a, b) for a, b in zip(model(images(backbone)), other(images(backbone))))


def test_channels_last_changes_the_layout_alone(method, backbone):
    model = perturb(build(method, backbone)).double().eval()
    x = images(backbone).double()
    before, shapes = model(x), {name: parameter.shape for name, parameter in model.named_parameters()}
    model.to(memory_format=torch.channels_last)
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes
    for a, b in zip(before, model(x.contiguous(memory_format=torch.channels_last))):
        torch.testing.assert_close(a, b)


def test_parameters_appear_once(method, backbone):
    model = build(method, backbone)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(parameter) for parameter in model.parameters()})
    count = count_parameters(model)
    assert count.backbone == sum(parameter.numel() for parameter in model.parameters())
    assert count.trainable == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_init_weights_keeps_the_adapter_s_own_start(method, backbone):
    loud = [dict(type='TruncNormal', layer='Linear', std=0.5, bias=2.), dict(type='Constant', layer='LayerNorm', val=3.)]
    torch.manual_seed(0)
    model = build(method, backbone, init_cfg=loud)
    roles, start = model.parameter_roles(), copy.deepcopy(model.state_dict())
    model.init_weights()
    assert any(
        p.eq(3.).all() for name, p in model.named_parameters()
        if name.endswith('.weight') and roles[name] in (Role.BASE, Role.TUNED))
    for name, parameter in model.named_parameters():
        if roles[name] in (Role.ADAPTER, Role.EXPERT_CENTER):
            if start[name].std(unbiased=False) < 1e-7:  # a constant start
                assert torch.equal(parameter, start[name]), name
            else:
                assert parameter.abs().max() < 3 * start[name].abs().max(), name
    again = copy.deepcopy(model.state_dict())
    model.init_weights()  # a second call changes nothing
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast_is_finite(method, backbone, dtype):
    model = perturb(build(method, backbone))
    with torch.autocast('cpu', dtype=dtype):
        outs = model(images(backbone))
        loss = sum(out.float().square().mean() for out in outs)
    backward(loss)
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all(), name


def test_train_and_eval_return_the_model(method, backbone):
    model = build(method, backbone)
    assert model.train() is model and model.training and model.eval() is model
    for _, module in find_adapter_modules(model):
        assert not module.training
    assert all(module.training for module in model.train().modules())


def test_two_samples_are_treated_as_two(method, backbone):
    model = perturb(build(method, backbone)).double().eval()
    x = images(backbone, batch=3, dtype=torch.float64)
    alone = [torch.cat(parts) for parts in zip(*(model(sample[None]) for sample in x))]
    for together, expected in zip(model(x), alone):
        torch.testing.assert_close(together, expected, rtol=0, atol=1e-9)
