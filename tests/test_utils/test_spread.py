"""Samples that do not leave out the end."""
import pytest

from mmparax.utils.spread import spread


@pytest.mark.parametrize('count, sample, expected', [(5, None, [0, 1, 2, 3, 4]), (3, 7, [0, 1, 2]), (9, 3, [0, 4, 8]), (4, 0, []),
                                                     (0, 3, [])])
def test_a_sample_is_spread_evenly(count, sample, expected):
    assert list(spread(count, sample)) == expected
