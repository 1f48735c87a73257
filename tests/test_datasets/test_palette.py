"""Colours of classes."""
import numpy as np
import pytest

from mmparax.datasets.palette import choose_palette, measure_distances


@pytest.mark.parametrize('count, least', [(2, 100), (5, 60), (10, 35), (15, 25), (20, 20), (50, 10), (150, 3), (255, 1.5)])
def test_colours_are_told_apart_by_every_eye(count, least):
    palette = choose_palette(count)
    assert len(palette) == count and all(type(channel) is int and 0 <= channel <= 255 for rgb in palette for channel in rgb)
    assert palette == choose_palette(255)[:count]
    distances = measure_distances(np.array(palette), np.array(palette))
    assert distances[~np.eye(count, dtype=bool)].min() > least


def test_distances_are_those_of_the_worse_eye():
    # Black and white are 100 apart in CIELAB; red and green of one lightness are far apart, but not without red or green cones.
    assert measure_distances(np.array([[0, 0, 0]]), np.array([[255, 255, 255]]))[0, 0] == pytest.approx(100, abs=0.1)
    assert measure_distances(np.array([[180, 80, 40]]), np.array([[100, 120, 30]]))[0, 0] < 40
