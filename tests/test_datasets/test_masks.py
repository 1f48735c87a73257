"""From a folder of images and masks to the layout that the configs read."""
import json
import re
import shutil
from pathlib import Path

import mmcv
import numpy as np
import pytest
from PIL import Image

from helpers.mask_folders import COLORS, HEIGHT, NAMES, WIDTH, paint, prepare, read, save, split
from mmparax.datasets import masks


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return save(tmp_path)


# ---- what is written ----


def test_layout_labels_and_table(folder, capsys):
    assert prepare('--val-ratio', '0.4', '--config', 'configs/mine.py') is None
    text = capsys.readouterr().out
    parts = split()
    assert {part: len(stems) for part, stems in parts.items()} == dict(training=3, validation=2)
    assert sorted(parts['training'] + parts['validation']) == [f'plant_{number}' for number in range(5)]
    for part, stems in parts.items():
        for stem in stems:
            written = Image.open(f'data/mine/annotations/{part}/{stem}.png')
            assert written.mode == 'L' and np.array_equal(written, read(f'masks/{stem}.png'))
            copied = Path(f'data/mine/images/{part}/{stem}.jpg')
            assert not copied.is_symlink() and copied.read_bytes() == Path(f'images/{stem}.jpg').read_bytes()
    assert json.loads(Path('data/mine/classes.json').read_text()) == dict(format='mmparax-masks', version=1, classes=NAMES,
                                                                          values=[0, 1, 2], ignored=[255],
                                                                          counts=dict(training=3, validation=2), seed=0)
    for value, name in enumerate(NAMES):
        assert re.search(rf'│ +{value} │ +{value} │ {name} +│ +25.00% │ +3 │ +2 │', text)
    assert re.search(r'│ +255 │ +255 │ \(ignored\) +│ +25.00% │ +3 │ +2 │', text) and 'Warning' not in text
    assert not list(Path('data').glob('.*'))


def test_links(folder):
    assert prepare('--link') is None
    for path in Path('data/mine/images').rglob('*.jpg'):
        assert path.is_symlink() and path.resolve() == folder / 'images' / path.name


def test_split_is_reproducible_and_hardly_moves_with_new_images(tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path, 20))
    first, again, other = (masks.examine('images', 'masks', 0.25, NAMES, seed=seed, progress=False) for seed in (0, 0, 1))
    names = [{pair.image.name for pair in found.pairs['validation']} for found in (first, again, other)]
    assert names[0] == names[1] != names[2] and len(names[0]) == 5
    image, mask = paint(0)
    Image.fromarray(image).save('images/new.jpg')
    Image.fromarray(mask).save('masks/new.png')
    grown = masks.examine('images', 'masks', 0.25, NAMES, progress=False)
    assert len(names[0] & {pair.image.name for pair in grown.pairs['validation']}) >= 4


@pytest.mark.parametrize('val, count', [(0.01, 1), (0.5, 10), (0.99, 19)])
def test_share_of_validation_images(val, count, tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path, 20))
    assert len(masks.examine('images', 'masks', val, NAMES, progress=False).pairs['validation']) == count


def test_unusual_masks_and_endings(folder):
    """A palette, 16 bits, one bit, other spellings of an ending, files that are neither image nor mask."""
    for number, mode in enumerate(['P', 'I;16', '1']):
        path = Path(f'masks/plant_{number}.png')
        mask = read(path)
        if mode == '1':
            Image.fromarray(mask == 1).save(path)
        elif mode == 'P':
            mask = Image.fromarray(mask)
            mask.putpalette(COLORS.ravel().tolist() * 64)
            mask.save(path)
        else:
            Image.fromarray(mask.astype(np.uint16)).save(path)
        assert Image.open(path).mode == mode
    expected = {number: read(f'masks/plant_{number}.png').astype(np.uint8) for number in range(5)}
    Path('images/plant_1.jpg').rename('images/plant_1.JPEG')
    Path('images/notes.txt').write_text('mine')
    Path('images/._plant_1.jpg').write_text('what some systems leave behind')
    assert prepare() is None
    for part, stems in split().items():
        for stem in stems:
            assert np.array_equal(read(f'data/mine/annotations/{part}/{stem}.png'), expected[int(stem[-1])])
            assert Path(f'data/mine/images/{part}/{stem}.jpg').is_file()


@pytest.mark.parametrize('arguments, classes, expected', [
    (['--ignore', '0'], ['leaf', 'stem', 'soil'], {0: 255, 1: 0, 2: 1, 255: None}),
    (['--values', '255', '1', '--ignore', '0', '2'], ['sky', 'leaf'], {0: 255, 1: 1, 2: 255, 255: 0}),
    (['--values', '2', '0', '1'], ['stem', 'background', 'leaf'], {0: 1, 1: 2, 2: 0, 255: 255}),
    ([], None, {0: 0, 1: 1, 2: 2, 255: 255}),
    (['--ignore'], None, {0: 0, 1: 1, 2: 2, 255: 3}),
], ids=['as ADE20K', '255 is a class', 'another order', 'no names', 'nothing ignored'])
def test_values_become_numbers_from_0(arguments, classes, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path, ignored=3 if None in expected.values() else 255))
    if None in expected.values():
        expected = {0: 255, 1: 0, 2: 1, 3: 2}
    assert prepare(*arguments, classes=classes) is None
    for part, stems in split().items():
        for stem in stems:
            mask, written = read(f'masks/{stem}.png'), read(f'data/mine/annotations/{part}/{stem}.png')
            assert {int(value): int(written[mask == value][0]) for value in np.unique(mask)} == expected
            assert all((written[mask == value] == number).all() for value, number in expected.items())
    if classes is None:
        assert json.loads(Path('data/mine/classes.json').read_text())['classes'][:3] == ['class 0', 'class 1', 'class 2']


def test_what_is_probably_not_meant_is_said(folder, capsys):
    for number in range(5):
        mask = read(f'masks/plant_{number}.png').copy()
        mask[mask == 2] = 1 if number != 3 else 2
        mask[:] = 255 if number == 4 else mask
        Image.fromarray(mask).save(f'masks/plant_{number}.png')
    tag = Image.Exif()
    tag[0x0112] = 3
    Image.open('images/plant_0.jpg').save('images/plant_0.jpg', exif=tag)
    assert prepare('--seed', next(str(seed) for seed in range(20) if 'plant_3' not in validation(seed)), classes=[*NAMES,
                                                                                                                  'soil']) is None
    text = capsys.readouterr().out
    assert "Warning: 'soil' (value 3) is in no mask" in text
    assert "Warning: 'stem' (value 2) is in no validation image" in text
    assert 'Warning: 1 mask(s) hold nothing but ignored pixels: plant_4.png.' in text
    assert 'Warning: 1 image(s) are stored turned' in text and 'plant_0.jpg' in text
    assert prepare('--force', '--seed', next(str(seed) for seed in range(20) if 'plant_3' in validation(seed))) is None
    assert "'stem' (value 2) is in no training image: it cannot be learnt" in capsys.readouterr().out


def validation(seed):
    found = masks.examine('images', 'masks', classes=[*NAMES, 'soil'], seed=seed, progress=False)
    return [pair.image.stem for pair in found.pairs['validation']]


def test_images_that_are_stored_turned_have_the_size_that_training_sees(folder):
    tag = Image.Exif()
    tag[0x0112] = 6
    image, mask = paint(0)
    Image.fromarray(np.rot90(image)).save('images/plant_0.jpg', exif=tag)
    assert mmcv.imread('images/plant_0.jpg').shape == (HEIGHT, WIDTH, 3)
    assert prepare() is None
    Image.fromarray(image).save('images/plant_0.jpg', exif=tag)
    assert 'plant_0.jpg: 32x48, turned by its EXIF orientation 6, plant_0.png: 48x32' in prepare('--force')


# ---- what is refused ----


def problem_mask_missing():
    Path('masks/plant_1.png').unlink()
    return 'images without a mask (NAME.png) (1):\n    plant_1.jpg'


def problem_image_missing():
    Path('images/plant_2.jpg').unlink()
    return 'masks without an image (1):\n    plant_2.png'


def problem_size():
    Image.fromarray(paint(3)[1][:, :-1]).save('masks/plant_3.png')
    return 'images and masks of different sizes (1):\n    plant_3.jpg: 48x32, plant_3.png: 47x32'


def problem_channels():
    Image.fromarray(paint(0)[0]).save('masks/plant_0.png')
    return ('masks with several channels, where a single one must hold class numbers (1): If colours stand for the classes, say '
            'for which: --colours FILE.\n    plant_0.png (3 channels, RGB)')


def problem_values():
    mask = paint(4)[1]
    mask[0, :2] = 7, 9
    Image.fromarray(mask).save('masks/plant_4.png')
    return re.compile(
        r'values in the masks that are no class \(classes: 0, 1, 2; ignored: 255\) \(2\): Give each a name, or leave '
        r'them out: --ignore 255 7 9\.\n    7 in 1 mask\(s\), (under )?0\.\d+% of all pixels: plant_4\.png\n    9 in 1')


def problem_truncated():
    path = Path('images/plant_5.jpg')
    path.write_bytes(path.read_bytes()[:-200])
    Path('masks/plant_6.png').write_bytes(b'no picture')
    return re.compile(r'files that cannot be read \(2\):\n    plant_5.jpg \(OSError: .*\n'
                      r'    plant_6.png \(UnidentifiedImageError')


def problem_two_of_a_name():
    Image.fromarray(paint(7)[0]).save('images/plant_7.bmp')
    return 'names that several images have (1):\n    plant_7.bmp, plant_7.jpg'


def problem_formats():
    Image.open('images/plant_8.jpg').save('images/plant_8.webp')
    Path('images/plant_8.jpg').unlink()
    return ('formats of the images, of which mmsegmentation reads one in a data set: convert all to one (2):\n    .jpg\n'
            '    .webp')


PROBLEMS = {name: call for name, call in globals().items() if name.startswith('problem_')}


def contains(text, message):
    return bool(message.search(text)) if isinstance(message, re.Pattern) else message in text


@pytest.mark.parametrize('name', PROBLEMS)
def test_each_problem_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path, 9))
    message = PROBLEMS[name]()
    assert contains(prepare('--config', 'configs/mine.py'), message)
    assert not Path('data').exists() and not Path('configs').exists()


def test_all_problems_are_listed_at_once_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path, 9))
    messages = [call() for call in PROBLEMS.values()]
    text = prepare()
    assert text.startswith("InputError: 11 problem(s) in 'images' and 'masks'; nothing was written.\n")
    assert all(contains(text, message) for message in messages), text
    assert sorted(path.name for path in tmp_path.iterdir()) == ['images', 'masks']


def test_long_lists_are_cut(tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path, 25))
    for path in list(Path('masks').iterdir())[1:]:
        path.unlink()
    text = prepare()
    assert '(NAME.png) (24):' in text and text.count('plant_') == 20 and text.endswith('\n    and 4 more')


@pytest.mark.parametrize('arguments, message', [
    (['--val-ratio', '1'], 'ratio=1.0 is not allowed'),
    (['--val-ratio', 'nan'], 'ratio=nan is not allowed'),
    (['--seed', '-1'], 'seed=-1 is not allowed'),
    (['--classes', 'leaf'], "classes=['leaf'] is not allowed: there must be 2 to 255"),
    (['--classes', 'leaf', 'leaf'], "classes=['leaf', 'leaf'] is not allowed"),
    (['--values', '0', '1'], 'values=[0, 1] is not allowed: there are 3 classes'),
    (['--values', '0', '1', '1'], 'values=[0, 1, 1] is not allowed'),
    (['--ignore', '1', '--values', '0', '1', '2'], 'ignore=[1] is not allowed: 1 is the value of a class'),
    (['--ignore', '-1'], 'ignore=-1 is not allowed'),
    (['--iterations', '3'], 'iterations=3 is not allowed'),
    (['--out-dir', '.'], "the folder 'images', which is read, must not be in it"),
    (['--out-dir', 'masks'], "the folder 'masks', which is read, must not be in it"),
    (['--out-dir', 'foreign', '--force'], 'it holds something that is not a set of prepared masks'),
    (['--config', 'foreign/notes.txt'], "the config 'foreign/notes.txt' exists already"),
], ids=str)
def test_wrong_arguments_are_named(arguments, message, folder):
    Path('foreign').mkdir()
    Path('foreign/notes.txt').write_text('mine')
    assert message in prepare(*arguments)
    assert Path('foreign/notes.txt').read_text() == 'mine' and not Path('data').exists()
    assert len(list(Path('images').iterdir())) == len(list(Path('masks').iterdir())) == 5


@pytest.mark.parametrize('change, message', [
    (lambda: Path('masks').rename('labels'), "the folder 'masks' for masks does not exist"),
    (lambda: [path.unlink() for path in Path('masks').iterdir()], "the folder 'masks' holds no file that ends in .png"),
    (lambda: [path.unlink() for path in Path('images').iterdir()], "the folder 'images' holds no file that ends in .jpg"),
    (lambda: [path.unlink() for path in [*Path('images').glob('*[1-4].jpg'), *Path('masks').glob('*[1-4].png')]],
     'there are 1 image(s) and 3 class(es)'),
], ids=['no folder', 'no masks', 'no images', 'one image'])
def test_folders_without_a_data_set(change, message, folder):
    change()
    assert message in prepare()
    assert not Path('data').exists()


def test_masks_that_are_no_class_numbers(folder):
    for number in range(5):
        values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
        Image.fromarray(values).save(f'masks/plant_{number}.png')
    assert 'hold 1535 different values, and there can be at most 255 classes' in prepare(classes=None)


def test_written_data_are_replaced_only_on_demand_and_as_a_whole(folder, monkeypatch):
    assert prepare('--config', 'mine.py') is None
    before = {path: path.stat().st_mtime_ns for path in Path('data').rglob('*')}
    assert 'it holds prepared masks already' in prepare()
    assert 'must not be in it' in prepare('--force', '--out-dir', '.')
    monkeypatch.setattr(shutil, 'copyfile', lambda *_: (_ for _ in ()).throw(OSError('No space left on device')))
    assert prepare('--force') == f'StorageError: {str(folder / "data" / "mine")!r} cannot be written: No space left on device.'
    assert {path: path.stat().st_mtime_ns for path in Path('data').rglob('*')} == before
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert prepare('--force', '--config', 'mine.py') is None  # the same config is no obstacle
    assert prepare('--force', '--seed', '3') is None
    assert json.loads(Path('data/mine/classes.json').read_text())['seed'] == 3
    assert [path.name for path in Path('data').iterdir()] == ['mine']
    assert 'exists already' in prepare('--force', '--iterations', '40', '--config', 'mine.py')
