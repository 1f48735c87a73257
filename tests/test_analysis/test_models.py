"""Models from configs and checkpoints."""
import pytest

from mmparax.analysis.models import ModelSource, parse_sources
from mmparax.errors import ParameterError


def test_models_are_configs_with_their_checkpoints():
    found = parse_sources(['r/a/c.py', 'r/a/x/iter_5.pth', 'r/b/d.py', 'r/b/x/iter_5.pth', 'r/b/x/iter_9.pth'])
    assert found == [
        ModelSource('a/x/iter_5', 'r/a/c.py', 'r/a/x/iter_5.pth'),
        ModelSource('b/x/iter_5', 'r/b/d.py', 'r/b/x/iter_5.pth'),
        ModelSource('b/x/iter_9', 'r/b/d.py', 'r/b/x/iter_9.pth')
    ]
    assert [source.name for source in parse_sources(['c.py', 'w/a/seed0/i.pth', 'w/b/seed0/i.pth'])] == ['a', 'b']
    assert [source.name for source in parse_sources(['w/c.py', 'w/i.pth'])] == ['c']
    assert [source.name for source in parse_sources(['w/c.py', 'w/d.py', 'w/i.pth'])] == ['c (start)', 'i']
    assert [source.name for source in parse_sources(['c.py', 'i.pth', 'd.py', 'i.pth'])] == ['c: i', 'd: i']
    assert [source.name for source in parse_sources(['c.py', 'd.py'], ['one', 'other'])] == ['one', 'other']


@pytest.mark.parametrize('arguments, names, message', [(['i.pth', 'c.py'], None, 'stands behind its config'),
                                                       (['c.py', 'i.pth', 'i.pth'], None, 'each model is given once'),
                                                       (['c.py', 'd.py'], ['one'], 'there are 2 models'),
                                                       (['c.py', 'd.py'], ['one', 'one'], 'a name of its own')])
def test_wrong_lists_of_models(arguments, names, message):
    with pytest.raises(ParameterError, match=message):
        parse_sources(arguments, names)
