"""Errors say what a user can mend, as a sentence and as attributes."""
import copy
import pickle

import pytest
from torch.utils.data import DataLoader, Dataset

from helpers.cases import build
from mmparax.errors import InputError, ParameterError, UserError, check_choice, check_int, check_number, check_options


def test_an_error_of_a_worker_keeps_its_kind_and_sentence():

    class Broken(Dataset):

        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise ParameterError('size', 0, 'it must be positive')

    with pytest.raises(ParameterError, match='size=0 is not allowed: it must be positive'):
        next(iter(DataLoader(Broken(), num_workers=1, multiprocessing_context='fork')))


CHECKS = dict(int=check_int, number=check_number, choice=check_choice)


@pytest.mark.parametrize('remedy, sentence', [
    ('', "size=0 is not allowed: it must be positive."),
    ('Use 1.', "size=0 is not allowed: it must be positive. Use 1."),
])
def test_a_wrong_argument_is_a_sentence_and_attributes(remedy, sentence):
    error = ParameterError('size', 0, 'it must be positive', remedy)
    assert isinstance(error, InputError) and isinstance(error, UserError) and isinstance(error, ValueError)
    for same in (error, copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert str(same) == sentence
        assert (same.parameter, same.value, same.allowed, same.remedy) == ('size', 0, 'it must be positive', remedy)


@pytest.mark.parametrize('check, options, value, allowed', [
    ('int', (2, ), 1, 'it must be an integer of at least 2'),
    ('int', (), True, 'it must be an integer of at least 1'),
    ('int', (), 1.5, 'it must be an integer of at least 1'),
    ('number', (), float('nan'), 'it must be a finite number'),
    ('number', (), '3', 'it must be a finite number'),
    ('choice', (('a', 'b'), ), 'c', "choose one of 'a', 'b'"),
])
def test_checks_name_what_is_allowed(check, options, value, allowed):
    with pytest.raises(ParameterError) as error:
        CHECKS[check]('n', value, *options)
    assert error.value.parameter == 'n' and error.value.allowed == allowed
    assert error.value.value is value


def test_checks_return_what_fits():
    assert (check_int('n', 2, 2), check_number('n', 2), check_choice('n', 'a', 'ab')) == (2, 2., 'a')
    assert check_options('the owner', {'a': 1}, ['a', 'b']) is None


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(ParameterError) as error:
        check_options('the owner', {'a': 1, 'c': 3, 'd': 4}, ['a', 'b'], 'Leave it out.')
    assert (error.value.parameter, error.value.value, error.value.remedy) == ('c', 3, 'Leave it out.')
    assert error.value.allowed == "the owner has no option 'c', 'd'; its options are: a, b"


@pytest.mark.parametrize('options, parameter, value', [
    (dict(adapter=dict(type='mmparax.AdaRoute', hidden_dim=0)), 'hidden_dim', 0),
    (dict(adapter=dict(type='mmparax.AdaRoute', hiden_dim=3)), 'hiden_dim', 3),
    (dict(adapter=dict(type='mmparax.Unknown')), 'adapter.type', 'mmparax.Unknown'),
    (dict(adapter=3), 'adapter', 3),
    (dict(with_ccp=True), 'with_ccp', True),
    (dict(frozen_stages=1), 'frozen_stages', 1),
    (dict(out_indices=(0, 9)), 'out_indices', (0, 9)),
    (dict(efficient_attention='yes'), 'efficient_attention', 'yes'),
    (dict(pretrained='file.pth'), 'pretrained', 'file.pth'),
    (dict(pretrained=True), 'pretrained', True),
], ids=str)
def test_a_backbone_names_the_option(options, parameter, value):
    with pytest.raises(ParameterError) as error:
        build(**{'method': 'frozen', **{'method' if name == 'adapter' else name: value for name, value in options.items()}})
    assert (error.value.parameter, error.value.value) == (parameter, value)
    assert error.value.allowed


@pytest.mark.parametrize('backbone', ['swin', 'convnext', 'vit', 'mit'])
def test_weights_given_in_another_way_name_the_base_checkpoint(backbone):
    """Most upstream classes have no ``pretrained``; older configs have it, often without a value."""
    with pytest.raises(ParameterError) as error:
        build('frozen', backbone, pretrained='file.pth')
    assert error.value.remedy == "Use base_checkpoint='file.pth'."
    assert build('frozen', backbone, pretrained=None).method is not None


def test_a_number_beyond_all_floats_is_refused_and_not_printed():
    for value in (10**400, -10**5000):
        with pytest.raises(ParameterError) as refused:
            check_number('scale', value)
        assert str(refused.value).startswith('scale=an integer of about ') and len(str(refused.value)) < 100
