"""What is loaded are values: nothing else takes the place of a weight, by any route."""
import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint

import mmparax
from helpers.cases import build
from mmparax.errors import InputError
from mmparax.weights.adapter_file import read_adapter
from mmparax.weights.matching import ALLOW_NONFINITE, find_unusable

NO_VALUES = {
    'None': lambda value: None,
    'a list': lambda value: value.tolist(),
    'an array': lambda value: value.numpy(),
    'integers': lambda value: value.long(),
    'truth values': lambda value: value.bool(),
    'eight bits': lambda value: value.to(torch.float8_e4m3fn),
    'complex numbers': lambda value: value.to(torch.complex64),
}
KEPT_IN_MEMORY = {
    'sparse': lambda value: value.to_sparse(),
    'meta': lambda value: value.to('meta'),
}


def pick(model, kind):
    """The name of a weight of the base, or of an adapter."""
    return next(name for name, parameter in model.named_parameters()
                if ('adapters' in name) == (kind == 'adapter') and parameter.ndim > 1)


@pytest.fixture(scope='module')
def model():
    return build('lora', 'swin')


@pytest.mark.parametrize('change', NO_VALUES)
@pytest.mark.parametrize('kind', ['adapter', 'base'])
def test_a_checkpoint_of_something_else_than_values_is_refused(kind, change, model, tmp_path):
    state, name = dict(model.state_dict()), pick(model, kind)
    state[name] = NO_VALUES[change](state[name].detach().clone())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for content in (dict(state_dict=state), state):
        torch.save(content, tmp_path / 'a.pth')
        with pytest.raises(InputError):
            load_checkpoint(model, str(tmp_path / 'a.pth'))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize('change', {**NO_VALUES, **KEPT_IN_MEMORY})
def test_what_is_no_value_is_named(change):
    value = torch.ones(2, 2)
    strange = {**NO_VALUES, **KEPT_IN_MEMORY}[change](value)
    assert len(find_unusable({'a': strange, 'b': value, 'c': value.half()}, dict(a=value, b=value, c=value))) == 1


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('kind', ['adapter', 'base'])
def test_what_is_not_finite_is_refused_unless_it_is_allowed(kind, value, tmp_path, monkeypatch):
    model = build('lora', 'swin')
    state, name = dict(model.state_dict()), pick(model, kind)
    state[name] = torch.full_like(state[name], value)
    torch.save(dict(state_dict=state), tmp_path / 'a.pth')
    with pytest.raises(InputError, match=f'infinite values or NaN in 1 .*{name.split(".")[-1]}'):
        load_checkpoint(model, str(tmp_path / 'a.pth'))
    monkeypatch.setenv(ALLOW_NONFINITE, '1')
    load_checkpoint(model, str(tmp_path / 'a.pth'))
    assert not torch.isfinite(model.state_dict()[name]).any()


def test_a_base_with_nan_is_refused(tmp_path):
    base = build('frozen', 'swin').state_dict()
    name = pick(build('frozen', 'swin'), 'base')
    torch.save({**base, name: torch.full_like(base[name], float('nan'))}, tmp_path / 'base.pth')
    with pytest.raises(InputError, match="base_checkpoint=.* holds infinite values or NaN in 1 "):
        build('lora', 'swin', base_checkpoint=str(tmp_path / 'base.pth'), allow_random_base=False)


def test_an_adapter_file_with_nan_is_refused_unless_it_is_allowed(tmp_path):
    model = build('lora', 'swin')
    with torch.no_grad():
        model.get_parameter(pick(model, 'adapter')).fill_(float('nan'))
    mmparax.save_adapter(model, tmp_path / 'a.safetensors')
    assert any(not torch.isfinite(value).all() for value in read_adapter(tmp_path / 'a.safetensors').tensors.values())
    with pytest.raises(InputError, match='infinite values or NaN'):
        mmparax.load_adapter(model, tmp_path / 'a.safetensors')
    mmparax.load_adapter(model, tmp_path / 'a.safetensors', allow_nonfinite=True)
