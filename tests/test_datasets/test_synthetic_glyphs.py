"""Glyphs for pre-training the mini backbones."""
import numpy as np
import pytest

from mmparax.datasets.synthetic.glyphs import GLYPH_CLASSES, GlyphGenerator
from mmparax.datasets.synthetic.scenes import CLASSES


def test_glyphs_do_not_depend_on_the_order_of_calls():
    first, second = GlyphGenerator(seed=2), GlyphGenerator(seed=2)
    forward = [first.sample(index) for index in range(6)]
    backward = [second.sample(index) for index in reversed(range(6))]
    for (image, label), (other, other_label) in zip(forward, reversed(backward)):
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        assert label == other_label and np.array_equal(image, other)
    assert not np.array_equal(forward[0][0], GlyphGenerator(seed=3).sample(0)[0])


def test_glyph_classes_hold_no_digit_and_all_occur():
    assert len(set(GLYPH_CLASSES)) == len(GLYPH_CLASSES) == 48
    assert not any(character.isdigit() for name in GLYPH_CLASSES for character in name)
    assert not set(GLYPH_CLASSES) & set(CLASSES)
    generator = GlyphGenerator(size=32)
    assert {generator.sample(index)[1] for index in range(500)} == set(range(len(GLYPH_CLASSES)))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match='^size=16'):
        GlyphGenerator(size=16)
    with pytest.raises(ValueError, match='^seed=-1'):
        GlyphGenerator(seed=-1)
