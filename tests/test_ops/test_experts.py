"""Gradients of experts that are summed at once are those that each adapter would add by itself."""
import concurrent.futures
import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from helpers.cases import adapter_and_center, build, perturb
from mmparax.ops.dispatch import use_backend
from mmparax.ops.functional import sum_expert_gradients_once
from mmparax.ops.fused import experts
from mmparax.ops.recompute import use_recomputation

# More than one expert in each stage: a softmax over one gives its router no gradient.
SMALL = dict(arch=dict(embed_dims=8, depths=[2, 2], num_heads=[1, 2]), out_indices=(0, 1), pad_small_map=True)
BACKENDS = pytest.mark.parametrize('backend', ['fused', 'cpu'])


@pytest.fixture(autouse=True)
def automatic():
    with use_backend('auto'):
        yield


def make(method='adaroute', **options):
    """A backbone of which nothing is neutral, and that amplifies rounding little: no parameter far from its start."""
    model = build(method, **{**SMALL, **options}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def picture(seed=0):
    return torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def loss_of(outs):
    return sum(out.sin().sum() for out in outs)


def expert_parameters(model):
    return {name: value for name, value in model.named_parameters() if name.startswith('expert_centers.')}


def gradients(model, step, backend):
    """Gradients of all parameters, and of the inputs that ``step(model)`` returns, by one backend."""
    model.zero_grad()
    with use_backend(backend):
        inputs = step(model)
    grads = {f'input {i}': x.grad for i, x in enumerate(inputs)}
    return {**grads, **{name: value.grad for name, value in model.named_parameters() if value.requires_grad}}


def assert_close(found, expected, without_gradient=()):
    """Float64 rounds by 1e-16; a network of some hundred operations makes more of it, yet less than 1e-11."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None and name.startswith(without_gradient), name
            continue
        error = (found[name] - value).abs().max() / value.abs().max()
        assert error < 1e-11, (name, error)


def once(model):
    x = picture()
    loss_of(model(x)).backward()
    return [x]


def input_alone_first(model):
    x = picture()
    loss = loss_of(model(x))
    for _ in range(2):
        torch.autograd.grad(loss, x, retain_graph=True)
    loss.backward()
    return [x]


def twice_on_one_graph(model):
    x = picture()
    loss = loss_of(model(x))
    loss.backward(retain_graph=True)
    loss.backward()
    return [x]


def two_forwards_and_one_backward(model):
    first, second = picture(1), picture(2)
    (loss_of(model(first)) * loss_of(model(second))).backward()
    return [first, second]


def two_backwards_the_other_way_round(model):
    inputs = picture(1), picture(2)
    for loss in reversed([loss_of(model(x)) for x in inputs]):
        loss.backward()
    return inputs


def accumulated_over_two_steps(model):
    inputs = picture(1), picture(2)
    for x in inputs:
        loss_of(model(x)).backward()
    return inputs


def with_inference_between(model):
    x = picture()
    loss = loss_of(model(x))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert not any(out.requires_grad for out in model(x))
    loss.backward()
    return [x]


def input_without_gradient(model):
    loss_of(model(picture().detach())).backward()
    return []


def forward_in_another_thread(model):
    x = picture()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        outs = pool.submit(model, x).result()
    loss_of(outs).backward()
    return [x]


def backward_in_another_thread(model):
    x = picture()
    loss = loss_of(model(x))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(loss.backward).result()
    return [x]


def after_a_forward_that_failed(model):
    with pytest.raises(RuntimeError):
        model(torch.zeros(2, 5, 32, 40, dtype=torch.float64))
    return once(model)


def image_by_name(model):
    x = picture()
    loss_of(model(x=x)).backward()
    return [x]


def checkpointed_as_a_whole(model, use_reentrant=True):
    x = picture()
    loss_of(checkpoint(model, x, use_reentrant=use_reentrant)).backward()
    return [x]


def checkpointed_without_reentrance(model):
    return checkpointed_as_a_whole(model, use_reentrant=False)


STEPS = [
    input_alone_first, twice_on_one_graph, two_forwards_and_one_backward, two_backwards_the_other_way_round,
    accumulated_over_two_steps, with_inference_between, input_without_gradient, forward_in_another_thread,
    backward_in_another_thread, after_a_forward_that_failed, image_by_name, checkpointed_as_a_whole,
    checkpointed_without_reentrance
]


@pytest.fixture(scope='module')
def shared_model():
    """One model for all tests that change nothing of it."""
    torch.manual_seed(0)
    return make()


@BACKENDS
def test_one_backward(shared_model, backend):
    found, expected = (gradients(shared_model, once, each) for each in (backend, 'reference'))
    assert_close(found, expected)
    assert all(found[name].abs().max() > 0 for name in expert_parameters(shared_model))


@pytest.mark.parametrize('step', STEPS, ids=lambda step: step.__name__)
def test_every_way_to_go_back(shared_model, step):
    assert_close(*(gradients(shared_model, step, each) for each in ('auto', 'reference')))


@pytest.mark.parametrize('again', [False, True], ids=['kept', 'recomputed'])
@BACKENDS
def test_training_with_accumulation_and_clipping_goes_the_same_way(shared_model, backend, again):
    """Both work on gradients in place, which must be nobody else's."""
    trained = {}
    for each in ('reference', backend):
        model = copy.deepcopy(shared_model)
        parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        optimizer = torch.optim.SGD(parameters.values(), lr=0.01, momentum=0.9)
        with use_backend(each), use_recomputation(again and each == backend):
            for step in range(3):
                for batch in range(2):
                    (loss_of(model(picture(2 * step + batch))) / 2).backward()
                assert torch.nn.utils.clip_grad_norm_(parameters.values(), 0.5) > 0.5
                optimizer.step()
                optimizer.zero_grad(set_to_none=step == 1)
        trained[each] = {name: value.detach() for name, value in parameters.items()}
    moved = [
        name for name, value in shared_model.named_parameters()
        if name in trained['reference'] and not torch.equal(trained['reference'][name], value)
    ]
    assert len(moved) == len(trained['reference'])
    for name, value in trained['reference'].items():
        torch.testing.assert_close(trained[backend][name], value, rtol=1e-10, atol=1e-10,
                                   msg=lambda text, name=name: f'{name}: {text}')


@pytest.mark.parametrize('method, options', [('adaroute', dict(with_cp=True)),
                                             ('adaroute-groups', dict(arch=dict(SMALL['arch'], depths=[2, 4]))),
                                             ('adaroute-no-kernels', {}), ('adaroute-no-sa', {}), ('adaroute-one-site', {})],
                         ids=str)
def test_other_backbones(method, options):
    model = make(method, **options)
    assert_close(*(gradients(model, once, each) for each in ('auto', 'reference')))


@pytest.mark.parametrize('index', [0, 1])
def test_the_output_of_one_stage_alone(shared_model, index):

    def one(model):
        x = picture()
        model(x)[index].sin().sum().backward()
        return [x]

    found, expected = (gradients(shared_model, one, each) for each in ('auto', 'reference'))
    assert_close(found, expected, ('norm0', ) if index else ('norm1', 'stages.1', 'expert_centers.1'))
    assert [name for name, value in found.items() if value is None and name.startswith('expert_centers')
            ] == ([] if index else [name for name in expert_parameters(shared_model) if name.startswith('expert_centers.1')])


@pytest.mark.parametrize('frozen', [('up', ), ('down', 'kernels.1'), ('down', 'up', 'kernels.0', 'kernels.1', 'kernels.2')],
                         ids=str)
def test_experts_that_are_partly_frozen(frozen):
    model = make()
    for name, value in expert_parameters(model).items():
        value.requires_grad_(not name.endswith(frozen))
    assert_close(*(gradients(model, once, each) for each in ('auto', 'reference')))
    assert all((value.grad is None) == name.endswith(frozen) for name, value in expert_parameters(model).items())


def test_gradients_of_chosen_experts_alone(shared_model):
    named, found = expert_parameters(shared_model), []
    for backend in ('auto', 'reference'):
        with use_backend(backend):
            loss = loss_of(shared_model(picture()))
        found.append({name: torch.autograd.grad(loss, value, retain_graph=True)[0] for name, value in named.items()})
    assert_close(*found)


def test_an_adapter_outside_a_backbone():
    adapter, center = adapter_and_center()
    perturb(adapter, center)
    adapter.double(), center.double()

    def two_calls(module):
        x = torch.randn(2, 35, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
        adapter(adapter(x, (5, 7)), (5, 7)).sin().sum().backward()
        return [x]

    both = torch.nn.ModuleList([adapter, center])
    assert_close(*(gradients(both, two_calls, each) for each in ('auto', 'reference')))


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_some_adapters_are_checkpointed(use_reentrant):
    """The first, whose experts are not yet known then, the second, or both; inside one forward."""
    adapter, center = adapter_and_center()
    perturb(adapter, center)
    both = torch.nn.ModuleList([adapter, center]).double()

    def step(first, second):

        @sum_expert_gradients_once
        def forward(x):
            for is_checkpointed in (first, second):
                x = checkpoint(adapter, x, (5, 7), use_reentrant=use_reentrant) if is_checkpointed else adapter(x, (5, 7))
            return x

        def call(module):
            x = torch.randn(2, 35, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
            forward(x).sin().sum().backward()
            return [x]

        return call

    expected = gradients(both, step(False, False), 'reference')
    for first, second in ((True, False), (False, True), (True, True)):
        assert_close(gradients(both, step(first, second), 'auto'), expected)


def test_a_forward_inside_a_forward(shared_model):
    """As of a teacher that a student calls; and nothing stays open behind."""
    inner = make()

    @sum_expert_gradients_once
    def outer(x):
        return loss_of(shared_model(x)) * loss_of(inner(x))

    def step(module):
        x = picture()
        outer(x).backward()
        return [x]

    both = torch.nn.ModuleList([shared_model, inner])
    assert_close(*(gradients(both, step, each) for each in ('auto', 'reference')))
    assert experts._open.shared is None


def test_each_expert_is_accumulated_once_in_a_backward():
    model, counts = make(), {}
    for name, value in expert_parameters(model).items():
        value.register_post_accumulate_grad_hook(lambda _, name=name: counts.update({name: counts.get(name, 0) + 1}))
    for times in (1, 2):
        loss_of(model(picture())).backward()
        assert counts == dict.fromkeys(expert_parameters(model), times)


def test_gradients_share_no_memory():
    """Clipping scales each in place: two that share memory would be scaled twice."""
    model = make()
    loss_of(model(picture())).backward()
    addresses = [value.grad.data_ptr() for value in model.parameters() if value.requires_grad]
    assert len(addresses) == len(set(addresses))


def test_a_step_between_forward_and_backward_is_noticed():
    model = make()
    named = expert_parameters(model)
    loss_of(model(picture())).backward()
    loss = loss_of(model(picture()))
    torch.optim.SGD(named.values(), lr=0.1).step()
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        loss.backward()


@pytest.mark.parametrize('wanted', ['experts', 'input'])
def test_second_derivatives_are_refused(shared_model, wanted):
    """Not taken to be zero, in a sum with other terms neither."""
    x = picture()
    loss = loss_of(shared_model(x))
    values = list(expert_parameters(shared_model).values()) if wanted == 'experts' else [x]
    grads = torch.autograd.grad(loss, values, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        (loss + sum(grad.square().sum() for grad in grads)).backward()


def test_half_precision_mixes_as_the_reference():
    model = make().float()

    def step(module):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            outs = module(picture().detach().float())
        loss_of(out.float() for out in outs).backward()
        return []

    found, expected = (gradients(model, step, backend) for backend in ('auto', 'reference'))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
