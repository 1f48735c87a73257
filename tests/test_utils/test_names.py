"""Names of parts of a model and of the model itself, whose name is empty."""
import pytest

from mmparax.utils.names import add_prefix, join_name, make_prefix, strip_prefix


@pytest.mark.parametrize('parts, name', [(('backbone', 'norm.weight'), 'backbone.norm.weight'),
                                         (('', 'norm.weight'), 'norm.weight'), (('backbone', ''), 'backbone'),
                                         (('a', '', 'b', 'c'), 'a.b.c'), (('', ''), ''), ((), '')], ids=str)
def test_empty_parts_leave_no_dot(parts, name):
    assert join_name(*parts) == name


@pytest.mark.parametrize('owner, prefix', [('', ''), ('backbone', 'backbone.'), ('module.backbone', 'module.backbone.')])
def test_a_prefix_joins_as_join_name_does(owner, prefix):
    assert make_prefix(owner) == prefix and prefix + 'weight' == join_name(owner, 'weight')


def test_only_what_is_inside_a_module_has_its_prefix():
    named = {'backbone.b': 1, 'backbone2.a': 2, 'backbone': 3, 'head.backbone.c': 4, 'backbone.a.backbone.': 5}
    assert list(strip_prefix(named, 'backbone.').items()) == [('b', 1), ('a.backbone.', 5)]
    assert strip_prefix(named, '') == named and strip_prefix(named, '') is not named


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_what_was_added_is_stripped_again(prefix):
    named = {'z.weight': 1, 'a': 2}
    added = add_prefix(named, prefix)
    assert list(added) == [prefix + 'z.weight', prefix + 'a']
    assert list(strip_prefix(added, prefix).items()) == list(named.items())
