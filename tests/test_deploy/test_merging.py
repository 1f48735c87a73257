"""Adapters become a part of the frozen weights where that is exact, and the weights come back bit for bit."""
import copy

import pytest
import torch

import mmparax
from helpers.cases import BACKBONES, METHODS, build, fits, images

LINEAR = ('lora', 'lora-ffn', 'toy-linear')
CASES = [(method, backbone) for backbone in BACKBONES for method in LINEAR if fits(method, backbone)]
WHY = {
    'adaroute': 'mixed anew for each input', 'vpt': 'more tokens', 'adaptformer': 'a ReLU inside', 'lorand': 'a GELU inside',
    'mona': 'a norm and a GELU inside', 'toy-stream': 'no linear maps beside frozen ones'
}


def build_trained(method='lora', backbone='swin', **options):
    """A model whose adapters do something."""
    model = build(method, backbone, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape)
    return model


@torch.no_grad()
def run(model, x):
    return model(x)


@pytest.mark.parametrize('method, backbone', CASES)
def test_merged_equals_unmerged_and_comes_back(method, backbone):
    model, x = build_trained(method, backbone).double(), images(backbone, dtype=torch.float64)
    before, expected = copy.deepcopy(model.state_dict()), run(model, x)
    adapters, frozen = [module for module in model.modules() if hasattr(module, 'weight_update')], mmparax.fingerprint(model)
    assert mmparax.merge_adapter(model) > 0
    for module in adapters:  # no longer called
        module.forward = None
    for a, b in zip(run(model, x), expected):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        assert not torch.equal(a, b)
    for module in adapters:
        del module.forward
    assert mmparax.merge_adapter(model) == mmparax.unmerge_adapter(model)  # a second time changes nothing
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(a, b) for a, b in zip(run(model, x), expected))
    assert mmparax.fingerprint(model) == frozen
    assert mmparax.unmerge_adapter(model) == 0


def test_only_the_rows_of_the_adapters_change():
    model = build_trained('lora')
    linear = model.stages[0].blocks[0].attn.w_msa.qkv
    q, k, v = linear.weight.detach().clone().chunk(3)
    mmparax.merge_adapter(model)
    merged = linear.weight.detach().chunk(3)
    assert torch.equal(merged[1], k)
    for part, old, new in (('q', q, merged[0]), ('v', v, merged[2])):
        module = linear.adapters[part]
        torch.testing.assert_close(new - old, module.scale * module.lora_b @ module.lora_a)
    assert sum(rows.numel() for rows in linear.original_rows.values()) == 2 * q.numel()


@pytest.mark.parametrize('action, named', [
    (lambda model, path: model.state_dict(), 'give its state dict'),
    (lambda model, path: torch.nn.Sequential(model).state_dict(), 'give its state dict'),
    (lambda model, path: model.load_state_dict(build_trained().state_dict()), 'load a checkpoint'),
    (lambda model, path: mmparax.fingerprint(model), 'be identified by its base'),
    (lambda model, path: mmparax.save_adapter(model, path / 'x.safetensors'), 'give its state dict'),
    (lambda model, path: model.train()(images()), 'train'),
    (lambda model, path: model.init_weights(), 'be initialised'),
    (lambda model, path: model.load_base(), 'load its base'),
    (lambda model, path: mmparax.AdapterBank().adopt('it', model), 'join an AdapterBank'),
], ids=['state dict', 'state dict around', 'load', 'fingerprint', 'save', 'train', 'init', 'base', 'bank'])
def test_a_merged_model_only_runs(action, named, tmp_path):
    model, x = build_trained(), images()
    mmparax.merge_adapter(model)
    expected = run(model, x)
    with pytest.raises(ValueError, match=f'AdaptedSwin cannot {named}.* call mmparax.unmerge_adapter'):
        action(model, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(run(model.eval(), x), expected))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('action', [
    lambda stages: stages.state_dict(),
    lambda stages: stages.load_state_dict(build_trained().stages.state_dict()),
], ids=['state dict', 'load'])
def test_so_does_a_part_of_it(action):
    model, x = build_trained(), images()
    expected = run(model, x)
    mmparax.merge_adapter(model)
    with pytest.raises(ValueError, match='a part of a backbone cannot .* call mmparax.unmerge_adapter'):
        action(model.stages)
    mmparax.unmerge_adapter(model)
    assert all(torch.equal(a, b) for a, b in zip(run(model, x), expected))
    action(model.stages)


@pytest.mark.parametrize('method', WHY)
def test_what_is_not_linear_says_why(method):
    model = build(method)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f'cannot be merged into the frozen weights: .*{WHY[method]}'):
        mmparax.merge_adapter(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_method_merges_or_says_why():
    """A method of the table that does neither would be merged wrongly."""
    for method in METHODS:
        if method.startswith('adaroute-'):  # options of one method
            continue
        model = build(method, 'swin' if fits(method, 'swin') else 'convnext')
        hosts = [module for module in model.modules() if getattr(module, 'adapters', None)]
        try:
            merged = mmparax.merge_adapter(model)
        except ValueError as error:
            assert 'cannot be merged' in str(error)
        else:
            assert (merged > 0) == bool(hosts)


@pytest.mark.parametrize('method', ['frozen', 'bitfit', 'norm-tuning', None])
def test_without_modules_there_is_nothing_to_merge(method, monkeypatch):
    model, said = build(method), []
    monkeypatch.setattr('mmparax.deploy.merging.print_log', lambda text, **_: said.append(text))
    assert mmparax.merge_adapter(model) == 0
    assert said == ['AdaptedSwin has no adapters beside its weights: nothing to merge.']
    model.state_dict()
    model.train()(images())


def test_a_copy_of_a_merged_model_is_its_own():
    model, x = build_trained(), images()
    expected = run(model, x)
    mmparax.merge_adapter(model)
    other = copy.deepcopy(model)
    mmparax.unmerge_adapter(model)
    assert other.merged and not model.merged
    with pytest.raises(ValueError, match='merged'):
        other.state_dict()
    mmparax.unmerge_adapter(other)
    for found in (run(model, x), run(other, x)):
        assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_a_failure_halfway_leaves_the_model_as_it_was():
    model = build_trained()
    before = copy.deepcopy(model.state_dict())
    last = [module for module in model.modules() if hasattr(module, 'weight_update')][-1]
    last.weight_update = lambda: torch.zeros(1, 2, 3)
    with pytest.raises(RuntimeError):
        mmparax.merge_adapter(model)
    assert not model.merged
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_without_a_base_or_a_backbone_of_ours():
    with pytest.raises(RuntimeError, match='random base'):
        mmparax.merge_adapter(build('lora', allow_random_base=False))
    for function in (mmparax.merge_adapter, mmparax.unmerge_adapter):
        with pytest.raises(ValueError, match='Linear holds no backbone of mmparax'):
            function(torch.nn.Linear(2, 2))


@pytest.mark.full
def test_a_merged_model_compiles_in_one_graph():
    model, x = build_trained('lora', 'vit'), images('vit')
    mmparax.merge_adapter(model)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    for a, b in zip(run(compiled, x), run(model, x)):
        torch.testing.assert_close(a, b)
