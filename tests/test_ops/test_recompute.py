"""Computing again in the backward what an adapter need not keep: the same numbers, in fewer bytes."""
import copy
import io
import pickle
from contextlib import nullcontext

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.cases import adapter_and_center, build, images, perturb
from mmparax.backbones.block import find_adapter_modules
from mmparax.benchmark.saved_memory import SavedBytesCounter
from mmparax.ops.dispatch import use_backend
from mmparax.ops.recompute import disable_recomputation, should_recompute, use_recomputation

HW = (5, 7)
BACKENDS = pytest.mark.parametrize('backend', ['reference', 'fused', 'cpu'])
OPTIONS = pytest.mark.parametrize(
    'options', [{}, dict(kernel_sizes=()), dict(shortcut_scale=False, conv_layout='parallel')], ids=str)


class Alive(TorchDispatchMode):
    """Counts the bytes that operations inside allocated and that something still holds, hooks or closures included."""

    def __init__(self):
        super().__init__()
        self._found = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        given, made = ({
            StorageWeakRef(leaf.untyped_storage()): leaf.untyped_storage().nbytes() for leaf in tree_leaves(tree)
            if isinstance(leaf, torch.Tensor)
        } for tree in ((args, kwargs), results))
        self._found.update({storage: size for storage, size in made.items() if storage not in given})
        return results

    @property
    def bytes(self):
        return sum(size for storage, size in self._found.items() if not storage.expired())


def bfloat16():
    return torch.autocast('cpu', dtype=torch.bfloat16)


def make(dim=12, **options):
    adapter, center = adapter_and_center(dim=dim, **options)
    perturb(adapter, center)
    named = {**dict(adapter.named_parameters()), **{f'center.{name}': value for name, value in center.named_parameters()}}
    return adapter, named


def tokens(batch=2, dim=12, **options):
    return torch.randn(batch, HW[0] * HW[1], dim, **options).requires_grad_()


def results(adapter, named, x, wanted, backend='auto', autocast=nullcontext):
    """Output and gradients."""
    named = dict(named, **{'x': x} if x.requires_grad else {})
    with use_backend(backend), use_recomputation(wanted):
        with autocast():
            out = adapter(x, HW)
        grads = torch.autograd.grad(out.float().sin().sum(), list(named.values()))
    return dict(zip(named, grads), out=out.detach())


def assert_same(found, expected):
    assert found.keys() == expected.keys() and len(found) > 10
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert not different


@BACKENDS
@OPTIONS
@pytest.mark.parametrize('autocast', [nullcontext, bfloat16], ids=['float32', 'bfloat16'])
@pytest.mark.parametrize('batch', [1, 3])
def test_outputs_and_gradients_are_the_same_bits(backend, options, autocast, batch):
    adapter, named = make(**options)
    x = tokens(batch)
    assert_same(results(adapter, named, x, True, backend, autocast), results(adapter, named, x, False, backend, autocast))


@BACKENDS
def test_an_input_without_gradient_too(backend):
    adapter, named = make()
    x = tokens().detach()
    assert_same(results(adapter, named, x, True, backend), results(adapter, named, x, False, backend))


@BACKENDS
@pytest.mark.parametrize('autocast', [nullcontext, bfloat16], ids=['float32', 'bfloat16'])
def test_fewer_bytes_are_held(backend, autocast):
    dim, held = 64, {}
    adapter, _ = make(dim=dim)
    x = tokens(dim=dim)
    for wanted in (None, False, True):
        alive = Alive()
        with use_backend(backend), use_recomputation(wanted), autocast(), alive:
            out = adapter(x, HW)
        held[wanted] = alive.bytes
        del out
    assert alive.bytes == 0 and held[None] == held[False]  # on a CPU everything is kept by default
    # The two maps of C channels that enter products and convolutions whose weights train, and two of r = 8 channels.
    assert held[False] - held[True] >= 2 * (dim + 8) * (x.numel() // dim) * (4 if autocast is nullcontext else 2)


@BACKENDS
@pytest.mark.parametrize('wanted', [False, True])
def test_a_slice_of_tokens_is_copied_once(backend, wanted):
    """As a ViT's patches behind its class token are; both ends of an adapter need it."""
    adapter, _ = make(dim=64)
    whole = tokens(dim=64)
    held = []
    for x in (whole, torch.cat([whole, whole], 1)[:, :whole.shape[1]]):
        alive = Alive()
        with use_backend(backend), use_recomputation(wanted), alive:
            out = adapter(x, HW)
        held.append(alive.bytes)
        del out
    assert held[1] - held[0] == whole.numel() * whole.element_size()


@BACKENDS
def test_bytes_are_those_that_autograd_counts(backend):
    adapter, named = make(dim=64)
    x = tokens(dim=64)
    less = []
    for wanted in (False, True):
        counter, alive = SavedBytesCounter([*named.values(), x]), Alive()
        with use_backend(backend), use_recomputation(wanted), counter.count():
            adapter(x, HW)
        with use_backend(backend), use_recomputation(wanted), alive:
            out = adapter(x, HW)
        less.append((counter.total, alive.bytes))
        del out
    (kept, held), (kept_less, held_less) = less
    assert kept - kept_less == held - held_less > 0


def test_checkpointing_holds_what_it_holds_alone():
    model = build('adaroute', with_cp=True)
    model(images())  # makes the masks of shifted windows, which stay
    held = {}
    for wanted in (None, False, True):
        alive = Alive()
        with use_recomputation(wanted), alive:
            outs = model(images())
        held[wanted] = alive.bytes
        del outs
    assert held[True] == held[False] == held[None] > 0


def test_checkpointing_and_recomputing_give_the_same_gradients():
    plain, checkpointed = build('adaroute'), build('adaroute', with_cp=True)
    perturb(plain)
    checkpointed.load_state_dict(plain.state_dict())
    found = {}
    for name, model, wanted in (('expected', plain, False), ('recomputed', plain, True), ('both', checkpointed, True)):
        model.zero_grad()
        with use_recomputation(wanted):
            sum(out.square().mean() for out in model(images())).backward()
        found[name] = {key: parameter.grad.clone() for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert_same(found['recomputed'], found['expected'])
    for name, grad in found['expected'].items():
        torch.testing.assert_close(found['both'][name], grad, msg=name)


def test_a_model_can_be_copied_while_its_graph_is_alive():
    model = build('adaroute').eval()
    with use_recomputation(True):
        outs = model(images())
        stored = io.BytesIO()
        pickle.dump(model, stored)
        stored.seek(0)
        for other in (copy.deepcopy(model), pickle.load(stored)):
            assert all(torch.equal(mine, theirs) for mine, theirs in zip(outs, other(images())))
        sum(out.sum() for out in outs).backward()
    assert all(parameter.grad is not None for _, module in find_adapter_modules(model) for parameter in module.parameters())


@BACKENDS
def test_a_graph_can_be_used_twice(backend):
    adapter, named = make()
    x = tokens()
    with use_backend(backend), use_recomputation(True):
        out = adapter(x, HW).sin().sum()
        first, second = (torch.autograd.grad(out, list(named.values()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second))


def test_second_derivatives_are_those_of_the_reference():
    adapter, _ = make()
    x, found = tokens(), []
    for wanted in (False, True):
        with use_backend('reference'), use_recomputation(wanted):
            grad, = torch.autograd.grad(adapter(x, HW).sin().sum(), x, create_graph=True)
            found.append(torch.autograd.grad(grad.square().sum(), x)[0])
    assert torch.equal(*found) and found[0].abs().max() > 0


@pytest.mark.parametrize('backend', ['fused', 'cpu'])
def test_other_backends_refuse_second_derivatives(backend):
    adapter, _ = make()
    x = tokens()
    with use_backend(backend):
        grad, = torch.autograd.grad(adapter(x, HW).sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.square().sum().backward()


@BACKENDS
def test_without_gradients_nothing_is_kept(backend):
    adapter, _ = make()
    x = tokens()
    for mode in (torch.no_grad, torch.inference_mode):
        alive = Alive()
        with use_backend(backend), use_recomputation(True), mode():
            assert not should_recompute(x)
            with alive:
                out = adapter(x, HW)
        assert not out.requires_grad and alive.bytes <= out.untyped_storage().nbytes()
    with use_backend(backend), use_recomputation(False):
        assert torch.equal(out, adapter(x, HW))


@pytest.mark.parametrize('forward, backward', [('reference', 'fused'), ('fused', 'reference'), ('cpu', 'reference'),
                                               ('fused', 'cpu')])
def test_a_backward_elsewhere_computes_by_the_path_of_the_forward(forward, backward):
    """Tokens that lie the other way round in memory stay so by one backend and not by the other."""
    adapter, named = make()
    x = torch.randn(2, 12, 35).transpose(1, 2).requires_grad_()
    expected = results(adapter, named, x, False, forward)
    with use_backend(forward), use_recomputation(True):
        out = adapter(x, HW)
    with use_backend(backward):
        grads = torch.autograd.grad(out.sin().sum(), [*named.values(), x])
    assert_same(dict(zip([*named, 'x'], grads), out=out.detach()), expected)


def test_a_backward_under_autocast_leaves_no_casts_behind():
    """Autocast keeps the casts of weights for what follows inside; those of the backward know no gradients."""
    adapter, named = make()
    x = tokens()
    expected = results(adapter, named, x, False, autocast=bfloat16)
    with use_recomputation(True):
        with bfloat16():
            first = adapter(x, HW)
        with bfloat16():
            first.float().sin().sum().backward()
            second = adapter(x, HW)
        grads = torch.autograd.grad(second.float().sin().sum(), [*named.values(), x])
    assert_same(dict(zip([*named, 'x'], grads), out=second.detach()), expected)


def test_an_input_that_changed_since_is_noticed():
    adapter, _ = make()
    x = tokens() + 0
    with use_recomputation(True):
        out = adapter(x, HW)
    x.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


def test_choices_end_where_they_began():
    x = torch.zeros(1)
    assert not should_recompute(x)
    with use_recomputation(True):
        assert should_recompute(x) and not disable_recomputation(should_recompute)(x) and should_recompute(x)
        with pytest.raises(KeyError):
            with use_recomputation(False):
                assert not should_recompute(x)
                raise KeyError
        with pytest.raises(ZeroDivisionError):
            disable_recomputation(lambda: 1 / 0)()
        with use_recomputation(None):
            assert not should_recompute(x)
        assert should_recompute(x)
    assert not should_recompute(x)


def test_a_compiled_graph_recomputes_by_itself(monkeypatch):
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
    with use_recomputation(True):
        assert not should_recompute(torch.zeros(1)) and disable_recomputation(len) is len
