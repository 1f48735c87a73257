"""Masks whose colours stand for the classes, and the files that say for which."""
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.mask_folders import prepare, read, save, split
from mmparax.datasets.masks.colours import read_colours
from mmparax.errors import InputError

# Values 0, 1, 2, and 3 for the ignored pixels of the helper's masks.
COLOURS = np.array([[128, 0, 0], [0, 128, 64], [0, 0, 192], [224, 224, 192]], np.uint8)
NAMES = ['background', 'leaf', 'stem', 'void']
LINES = ''.join('{} {} {}\t\t{}\n'.format(*rgb, name) for rgb, name in zip(COLOURS.tolist(), NAMES))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path, ignored=3))
    for path in Path('masks').iterdir():
        Image.fromarray(COLOURS[read(path)]).save(path)
    Path('colours.txt').write_text(LINES)
    return tmp_path


def check_written(numbers):
    """Each colour of the given masks is written as the number of its class."""
    for part, stems in split().items():
        for stem in stems:
            given = read(f'masks/{stem}.png')
            colours = given if given.ndim == 3 else np.asarray(Image.open(f'masks/{stem}.png').convert('RGB'))
            values = (colours[:, :, None] == COLOURS).all(-1).argmax(-1)
            assert np.array_equal(read(f'data/mine/annotations/{part}/{stem}.png'), np.array(numbers)[values])


@pytest.mark.parametrize('arguments, classes, numbers', [
    (['--ignore', 'void'], None, [0, 1, 2, 255]),
    ([], None, [0, 1, 2, 3]),
    (['--ignore', 'void', 'leaf'], None, [0, 255, 1, 255]),
    (['--ignore', 'void'], ['stem', 'background', 'leaf'], [1, 2, 0, 255]),
    (['--ignore', 'void', 'background'], ['stem', 'leaf'], [255, 1, 0, 255]),
], ids=str)
def test_colours_become_numbers(arguments, classes, numbers, folder, capsys):
    assert prepare('--colours', 'colours.txt', *arguments, classes=classes) is None
    check_written(numbers)
    names = {number: name for name, number in zip(NAMES, numbers) if number != 255}
    assert json.loads(Path('data/mine/classes.json').read_text())['classes'] == [names[number] for number in sorted(names)]
    assert '0,128,64' in capsys.readouterr().out


def test_several_colours_of_one_name_are_one_class(folder):
    Path('colours.txt').write_text(LINES.replace('stem', 'leaf'))
    assert prepare('--colours', 'colours.txt', '--ignore', 'void', classes=None) is None
    check_written([0, 1, 1, 255])


def test_palettes_and_opaque_alpha_are_colours_too(folder):
    for number, mode in enumerate(['P', 'RGBA']):
        mask = Image.open(f'masks/plant_{number}.png')
        (mask.quantize(8) if mode == 'P' else mask.convert(mode)).save(f'masks/plant_{number}.png')
        assert Image.open(f'masks/plant_{number}.png').mode == mode
    assert prepare('--colours', 'colours.txt', '--ignore', 'void', classes=None) is None
    assert json.loads(Path('data/mine/classes.json').read_text())['classes'] == NAMES[:3]


@pytest.mark.parametrize(
    'text, names', [
        (LINES, NAMES),
        ('# as in CamVid\n\n' + LINES.replace('\t\t', ' ').replace(' ', ', '), NAMES),
        ('name,r,g,b\n' + '\n'.join(f'{name},{r},{g},{b}' for name, (r, g, b) in zip(NAMES, COLOURS)), NAMES),
        ('r,g,b,class\n' + '\n'.join(f'{r},{g},{b},"{name}, x"'
                                     for name, (r, g, b) in zip(NAMES, COLOURS)), [f'{name}, x' for name in NAMES]),
        ('# label:color_rgb:parts:actions\n' + '\n'.join(f'{name}:{r},{g},{b}::'
                                                         for name, (r, g, b) in zip(NAMES, COLOURS)), NAMES),
        ('Class R G B\n' + '\n'.join(f'{name} the first {r} {g} {b}'
                                     for name, (r, g, b) in zip(NAMES, COLOURS)), [f'{name} the first' for name in NAMES]),
        (json.dumps(dict(zip(NAMES, COLOURS.tolist()))), NAMES),
        (json.dumps([dict(name=name, color='#' + bytes(rgb).hex()) for name, rgb in zip(NAMES, COLOURS.tolist())]), NAMES),
        ('\n'.join('{} {} {}'.format(*rgb) for rgb in COLOURS.tolist()), []),
        (json.dumps(COLOURS.tolist()), []),
    ], ids=['CamVid', 'commas', 'CSV', 'CSV, quoted', 'CVAT', 'name first', 'JSON', 'JSON list', 'no names', 'JSON, no names'])
def test_forms_of_the_file(text, names, tmp_path):
    path = tmp_path / 'colours'
    path.write_text(text, encoding='utf-8-sig')
    table = read_colours(path)
    assert table.names == names
    assert table.colours == {tuple(rgb): value for value, rgb in enumerate(COLOURS.tolist())}


@pytest.mark.parametrize('text, messages', [
    ('', ['holds no colours']),
    ('1 2 3 a\nblue\n1 2 3 b\n1 2 300 c\n7 1 2 3 d\n4 1 2 3\n', [
        '5 problem(s)', 'lines that are no colour (3):\n    line 2: blue\n    line 5: 7 1 2 3 d\n    line 6: 4 1 2 3',
        'colours that are there twice (1):\n    line 3: (1, 2, 3)', 'colours beyond 255 (1):\n    line 4: (1, 2, 300)'
    ]),
    ('1 2 3 a\n4 5 6\n', ['colours without a name, beside others with one (1)']),
    ('{"a": [1, 2], "b": "red", "c": [1, 2, 3]}', ['entries that are no colour (2):\n    entry 1: a [1, 2]']),
    ('{"a": ', ['is no JSON']),
], ids=['empty', 'lines', 'a name missing', 'JSON', 'broken JSON'])
def test_wrong_files_are_refused(text, messages, tmp_path):
    path = tmp_path / 'colours.txt'
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_colours(path)
    for message in [*messages, 'colours.txt']:
        assert message in str(caught.value)


# ---- masks that cannot be read so ----


def problem_unknown_colour():
    picture = read('masks/plant_1.png').copy()
    picture[0, :5] = 1, 2, 3
    picture[1, :2] = 200, 100, 50
    Image.fromarray(picture).save('masks/plant_1.png')
    return (
        "masks with colours that 'colours.txt' has not (1): Add a line for each; one that is not to be learnt gets a name, and "
        'ignore has that name.\n    plant_1.png: (1, 2, 3): 5 pixel(s); (200, 100, 50): 2 pixel(s)')


def problem_smoothed_mask():
    Image.open('masks/plant_1.png').resize((96, 64), Image.Resampling.BICUBIC).resize((48, 32)).save('masks/plant_1.png')
    return 'masks with colours in between, which smoothing, resizing or JPEG has left and which no class can be given to (1):'


def problem_jpeg():
    Image.open('masks/plant_1.png').save('masks/plant_1.jpg')
    Path('masks/plant_1.png').unlink()
    return 'masks in a format that alters values and colours (1): JPEG blends neighbours'


def problem_from_jpeg():
    Image.open('masks/plant_1.png').save('blurred.jpg', quality=60)
    Image.open('blurred.jpg').save('masks/plant_1.png')
    return 'masks with colours in between'


def problem_transparent():
    mask = Image.open('masks/plant_1.png').convert('RGBA')
    mask.putalpha(100)
    mask.save('masks/plant_1.png')
    return 'masks with transparent pixels (1)'


def problem_numbers():
    Image.fromarray(np.zeros((32, 48), np.uint16)).save('masks/plant_1.png')
    return 'masks of more than 8 bits, which hold no colours (1):\n    plant_1.png (I;16)'


PROBLEMS = {name: call for name, call in globals().items() if name.startswith('problem_')}


@pytest.mark.parametrize('name', PROBLEMS)
def test_colours_are_never_rounded(name, folder):
    message = PROBLEMS[name]()
    text = prepare('--colours', 'colours.txt', classes=None)
    assert message in text, text
    assert not Path('data').exists()


@pytest.mark.parametrize('arguments, classes, message', [
    ([], ['leaf', 'stem', 'void'], "'background' in 5 mask(s), 25.00% of all pixels"),
    ([], ['leaf', 'stem', 'void'], '--ignore background.'),
    (['--ignore', 'sky'], None, "--ignore='sky' is not allowed: it is neither a number nor the name of a class; the names are "
     'background, leaf, stem, void'),
    (['--ignore', '3'], None, '--ignore=3 is not allowed: a colour is ignored by its name'),
    (['--values', '0', '1'], None, '--values=[0, 1] is not allowed: colours have no values'),
    ([], ['leaf', 'sky'], "--classes=['sky'] is not allowed: 'colours.txt' has the names background, leaf, stem, void"),
    (['--colours', 'none.txt'], None, "the file 'none.txt' of colours does not exist"),
    (['--colours', 'bare.txt'], None, "'bare.txt' has 4 colours without names"),
    (['--colours', 'bare.txt'], ['a', 'b'], "--classes=['a', 'b'] is not allowed: 'bare.txt' has 4 colours"),
], ids=str)
def test_wrong_arguments(arguments, classes, message, folder):
    Path('bare.txt').write_text('\n'.join('{} {} {}'.format(*rgb) for rgb in COLOURS.tolist()))
    text = prepare('--colours', 'colours.txt', *arguments, classes=classes)
    assert message in text, text


def test_colours_without_names_get_them_from_the_classes(folder):
    Path('bare.txt').write_text('\n'.join('{} {} {}'.format(*rgb) for rgb in COLOURS.tolist()))
    assert prepare('--colours', 'bare.txt', '--ignore', 'void', classes=NAMES) is None
    check_written([0, 1, 2, 255])
