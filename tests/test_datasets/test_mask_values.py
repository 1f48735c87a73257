"""Values in the masks: which are classes, which are ignored, and what is said about others."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.mask_folders import prepare, read, save, split


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path, ignored=11))
    return tmp_path


def change(numbers, dtype=np.uint8):
    """Other values in place of 0, 1, 2 and 11."""
    for path in Path('masks').iterdir():
        mask = read(path)
        changed = np.zeros(mask.shape, dtype)
        for value, number in zip((0, 1, 2, 11), numbers):
            changed[mask == value] = number
        Image.fromarray(changed).save(path)


def check_written(numbers):
    """Numbers in the written masks for the given values."""
    for part, stems in split().items():
        for stem in stems:
            mask, found = read(f'masks/{stem}.png'), read(f'data/mine/annotations/{part}/{stem}.png')
            assert found.dtype == np.uint8
            assert {int(value): set(found[mask == value].tolist()) for value in np.unique(mask)} == \
                {value: {number} for value, number in numbers.items()}


@pytest.mark.parametrize('arguments, classes, numbers, names', [
    (['--ignore', 'void', '--values', '0', '1', '2', '11'], ['a', 'b', 'c', 'void'], {0: 0, 1: 1, 2: 2, 11: 255}, 'abc'),
    (['--ignore', 'b', '11'], ['a', 'b', 'c'], {0: 0, 1: 255, 2: 1, 11: 255}, 'ac'),
    (['--ignore', 'a', 'void', '--values', '2', '1', '0', '11'], ['c', 'b', 'a', 'void'], {0: 255, 1: 1, 2: 0, 11: 255}, 'cb'),
    (['--ignore', '11'], ['a', 'b', 'c'], {0: 0, 1: 1, 2: 2, 11: 255}, 'abc'),
], ids=str)
def test_classes_are_ignored_by_name(arguments, classes, numbers, names, folder):
    assert prepare(*arguments, classes=classes) is None
    check_written(numbers)
    assert json.loads(Path('data/mine/classes.json').read_text())['classes'] == list(names)


def test_a_value_without_a_class_names_the_remedies(folder):
    assert prepare(classes=['a', 'b', 'c']).splitlines() == [
        "InputError: 1 problem(s) in 'images' and 'masks'; nothing was written.",
        '  values in the masks that are no class (classes: 0, 1, 2; ignored: 255) (1): Give it a name, or leave it out: '
        '--ignore 11.', '    11 in 5 mask(s), 25.00% of all pixels: plant_0.png, ...'
    ]
    assert not Path('data').exists()


@pytest.mark.parametrize('values, classes, arguments, message', [
    ((0, 0, 255, 255), ['back', 'leaf'
                        ], [], 'data sets that hold the class 0 alone (1): If these are the classes, say which values '
     'they have: --values 0 255.\n    50.00% of all pixels are ignored (value 255)'),
    ((0, 0, 255, 255), None, [], '--values 0 255.\n'),
    ((0, 0, 127, 255), ['a', 'b', 'c'], [], '127 in 5 mask(s)'),
    ((0, 0, 127, 255), ['a', 'b', 'c'], [], '--values 0 127 255.\n'),
    ((1, 2, 3, 3), ['a', 'b', 'c'], [], '--values 1 2 3.\n'),
    ((1, 2, 3, 255), ['a', 'b', 'c'], [], '--values 1 2 3.\n'),
    ((255, 255, 255, 255), ['a', 'b'], [], 'data sets that hold no class (1): There is nothing to tell apart: training needs two '
     'classes.\n    100.00% of all pixels are ignored (value 255)'),
    ((7, 7, 7, 7), ['a', 'b'], ['--values', '7', '8'], 'data sets that hold the class 7 alone (1): There is nothing'),
    ((0, 1, 2, 300), ['a', 'b', 'c'], [], '--ignore 300.\n'),
    ((0, 1, 2, 5), ['a', 'b', 'c'], ['--ignore', 'd'], "--ignore='d' is not allowed: it is neither a number nor the name of a "
     'class; the names are a, b, c'),
    ((0, 1, 2, 5), None, ['--ignore', 'd'], 'no names are given. Name all values, or ignore the number.'),
    ((0, 1, 2, 5), ['a', 'b', 'c'], ['--ignore', 'a', 'b'], "--ignore=['a', 'b'] is not allowed: 1 class(es) would be left"),
    ((0, 1, 2, 5), ['a', 'b', 'c'], ['--ignore', 'a', 'a'], 'nothing may be in it twice'),
], ids=str)
def test_what_is_said_about_values(values, classes, arguments, message, folder):
    change(values, np.uint16)
    text = prepare(*arguments, classes=classes)
    assert message in text, text
    assert not Path('data').exists()


@pytest.mark.parametrize('dtype, numbers', [(np.uint16, (0, 300, 65535, 1000)), (np.int32, (0, 70000, 5, 1 << 30)),
                                            (np.float32, (0, 3, 4, 9))], ids=str)
def test_wide_values_are_classes_as_well(dtype, numbers, folder):
    for path in list(Path('masks').iterdir()):
        mask = read(path)
        changed = np.zeros(mask.shape, dtype)
        for value, number in zip((0, 1, 2, 11), numbers):
            changed[mask == value] = number
        path.unlink()
        Image.fromarray(changed).save(path.with_suffix('.tif'))
    assert prepare('--values', *map(str, numbers[:3]), '--ignore', str(numbers[3])) is None
    for part, stems in split().items():
        for stem in stems:
            mask, found = read(f'masks/{stem}.tif'), read(f'data/mine/annotations/{part}/{stem}.png')
            assert [set(found[mask == number].tolist()) for number in numbers] == [{0}, {1}, {2}, {255}]


def test_grey_masks_of_three_equal_channels_hold_values(folder):
    path = Path('masks/plant_1.png')
    mask = read(path)
    Image.fromarray(np.stack([mask] * 3, -1)).save(path)
    assert prepare('--ignore', '11') is None
    part = next(part for part, stems in split().items() if 'plant_1' in stems)
    assert np.array_equal(read(f'data/mine/annotations/{part}/plant_1.png'), np.where(mask == 11, 255, mask))


@pytest.mark.parametrize('value, dtype, message', [
    (-1, np.int32, 'masks with negative values (1):\n    plant_1.tif: -1'),
    (0.5, np.float32, 'masks with values that are no whole numbers (1):\n    plant_1.tif'),
    (np.nan, np.float32, 'masks with values that are no whole numbers (1):\n    plant_1.tif'),
], ids=str)
def test_what_is_no_value(value, dtype, message, folder):
    mask = read('masks/plant_1.png').astype(dtype)
    mask[0, 0] = value
    Path('masks/plant_1.png').unlink()
    Image.fromarray(mask).save('masks/plant_1.tif')
    assert message in prepare('--ignore', '11')
