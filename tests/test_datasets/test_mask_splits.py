"""Ready splits and names of masks: folders, lists, suffixes."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.mask_folders import paint, prepare, read, save, split
from mmparax.datasets.masks import examine
from mmparax.errors import InputError

PARTS = dict(training=[0, 1], validation=[2, 3], test=[4])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return save(tmp_path)


def move(names):
    """Put the images and masks into a folder for each split."""
    for numbers, name in zip(PARTS.values(), names):
        for kind in ('images', 'masks'):
            target = Path(kind, name)
            target.mkdir(exist_ok=True)
            for number in numbers:
                file = next(Path(kind).glob(f'plant_{number}.*'))
                shutil.move(file, target / file.name)


def written():
    return {part: [int(stem[-1]) for stem in stems] for part, stems in split().items()}


@pytest.mark.parametrize('names', [('train', 'val', 'test'), ('training', 'validation', 'testing'),
                                   ('train2017', 'val2017', 'test2017'), ('Train', 'Valid', 'Test')], ids=str)
def test_folders_are_the_split(names, folder, capsys):
    move(names)
    assert prepare() is None
    assert written() == PARTS
    for part, numbers in PARTS.items():
        for number in numbers:
            assert np.array_equal(read(f'data/mine/annotations/{part}/plant_{number}.png'), paint(number)[1])
    assert '2 training, 2 validation and 1 test images' in capsys.readouterr().out
    assert json.loads(Path('data/mine/classes.json').read_text())['counts'] == dict(training=2, validation=2, test=1)


@pytest.mark.parametrize('marker', ['_labels', 'annot'])
def test_folders_of_masks_beside_those_of_images(marker, folder):
    move(('train', 'val', 'test'))
    for path in list(Path('masks').iterdir()):
        path.rename(Path('images', path.name + marker))
    assert prepare(folders=('images', 'images')) is None
    assert written() == PARTS


def test_validation_is_drawn_if_there_are_training_and_test_alone(folder):
    move(('train', 'train', 'test'))
    assert prepare('--val-ratio', '0.25') is None
    found = written()
    assert found['test'] == [4] and len(
        found['validation']) == 1 and sorted(found['training'] + found['validation']) == [0, 1, 2, 3]


@pytest.mark.parametrize('entries', [
    [['plant_0', 'plant_1'], ['plant_2', 'plant_3'], ['plant_4']],
    [['\ufeffplant_0.jpg', '', 'plant_1.png '], ['plant_2.jpg', 'plant_3'], ['plant_4.jpg']],
], ids=['names', 'files, a byte order mark, blanks'])
def test_lists_are_the_split(entries, folder):
    for name, lines in zip(('train', 'val', 'test'), entries):
        Path(f'{name}.txt').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    assert prepare('--splits', 'train.txt', 'val.txt', 'test.txt') is None
    assert written() == PARTS
    assert prepare('--splits', 'train.txt', 'val.txt', '--force') is None
    assert written() == {part: PARTS[part] for part in ('training', 'validation')}


def test_lists_may_name_folders_and_leave_images_out(folder, capsys):
    move(('berlin', 'berlin', 'rome'))
    Path('train.txt').write_text('berlin/plant_0\nberlin\\plant_1.jpg\n')
    Path('val.txt').write_text('rome/plant_4\n')
    assert prepare('--splits', 'train.txt', 'val.txt') is None
    assert written() == dict(training=[0, 1], validation=[4])
    assert 'Warning: 2 image(s) are in no list and are left out.' in capsys.readouterr().out


@pytest.mark.parametrize('suffix', ['_L', '_L.png', '.png', ''])
def test_what_masks_have_behind_the_name(suffix, folder):
    if suffix.startswith('_'):
        for path in list(Path('masks').iterdir()):
            path.rename(path.with_name(f'{path.stem}_L.png'))
    assert prepare('--mask-suffix', suffix) is None
    assert sorted(sum(written().values(), [])) == [0, 1, 2, 3, 4]
    assert all(path.stem[-2:] != '_L' for path in Path('data/mine/annotations').rglob('*.png'))


def test_masks_beside_images_of_the_same_format(tmp_path, monkeypatch):
    monkeypatch.chdir(save(tmp_path, suffix='.png'))
    for path in list(Path('masks').iterdir()):
        path.rename(Path('images', f'{path.stem}_mask.png'))
    assert prepare('--mask-suffix', '_mask', folders=('images', 'images')) is None
    assert sorted(sum(written().values(), [])) == [0, 1, 2, 3, 4]


def test_masks_of_other_lossless_formats(folder):
    for number, ending in enumerate(['.bmp', '.tif', '.tiff', '.gif']):
        Image.open(f'masks/plant_{number}.png').save(f'masks/plant_{number}{ending}')
        Path(f'masks/plant_{number}.png').unlink()
    assert prepare() is None
    for path in Path('data/mine/annotations').rglob('*.png'):
        assert np.array_equal(read(path), paint(int(path.stem[-1]))[1])


CAMVID = Path(__file__).resolve().parents[3] / 'shared' / 'real' / 'camvid'


@pytest.mark.full
@pytest.mark.skipif(not CAMVID.is_dir(), reason='needs the CamVid scenes in ../shared/real/camvid')
def test_camvid_with_its_own_split():
    names = 'Sky Building Pole Road Pavement Tree SignSymbol Fence Car Pedestrian Bicyclist'.split()
    with pytest.raises(InputError, match=r"leave it out: ignore=\[11\]\.\n +11 in 700 mask\(s\), 3\.59% of all pixels"):
        examine(CAMVID / 'images', CAMVID / 'labels', classes=names, progress=False)
    found = examine(CAMVID / 'images', CAMVID / 'labels', classes=[*names, 'Void'], ignore=['Void'], progress=False)
    assert {part: len(pairs) for part, pairs in found.pairs.items()} == dict(training=367, validation=101, test=233)
    assert found.classes == names and found.ignored == [11] and not found.list_warnings()


# ---- what is refused ----


def problem_lists():
    Path('train.txt').write_text('plant_0\nplant_9\nplant_0\nplant_1\n')
    Path('val.txt').write_text('plant_1\nplant_2\n')
    Path('test.txt').write_text('\n')
    Path('masks/plant_2.png').unlink()
    return ['--splits', 'train.txt', 'val.txt', 'test.txt'], [
        'problem(s)', 'names in the lists without an image (1):\n    train.txt: plant_9',
        'names that are listed twice (2):\n    plant_0: train.txt\n    plant_1: train.txt, val.txt',
        'lists without a name (1):\n    test.txt', 'images without a mask (NAME.png) (1):\n    plant_2.jpg'
    ]


def problem_one_list():
    Path('train.txt').write_text('plant_0\n')
    return ['--splits', 'train.txt'], ["--splits=['train.txt'] is not allowed: there are two or three lists"]


def problem_no_list():
    return ['--splits', 'train.txt', 'val.txt'], ["MissingFileError: the list 'train.txt' of splits does not exist"]


def problem_folders_and_images():
    move(('train', 'val', 'test'))
    Image.fromarray(paint(0)[0]).save('images/more.jpg')
    return [], ["'images' holds the folder(s) test, train, val, and beside them 1 image(s) (more.jpg) that belong to no split"]


def problem_two_folders():
    move(('train', 'training', 'test'))
    return [], ["'images' holds two folders for training: train and training"]


def problem_no_training():
    move(('val', 'val', 'test'))
    return [], ["'images' holds test, val, but no folder train"]


def problem_no_masks_for_the_test():
    move(('train', 'val', 'test'))
    shutil.rmtree('masks/test')
    return [], ["'images' holds the split(s) test, and 'masks' no folder for them: every image needs a mask"]


def problem_ratio_of_a_ready_split():
    move(('train', 'val', 'test'))
    return ['--val-ratio', '0.3'], ['--val-ratio=0.3 is not allowed: the validation images are given already']


def problem_suffix_not_given():
    for path in list(Path('masks').iterdir()):
        path.rename(path.with_name(f'{path.stem}_L.png'))
    return [], [
        'images without a mask (NAME.png) (5): The masks seem to be called NAME_L: --mask-suffix _L.\n    plant_0.jpg',
        'masks without an image (5):\n    plant_0_L.png'
    ]


def problem_suffix_of_a_lossy_file():
    return ['--mask-suffix', '_L.jpg'], ['--mask-suffix=', 'a JPG file may alter values and colours']


def problem_lossy_masks():
    for number in (1, 2):
        Image.open(f'masks/plant_{number}.png').save(f'masks/plant_{number}.jpg')
        Path(f'masks/plant_{number}.png').unlink()
    return [], [
        'masks in a format that alters values and colours (2): JPEG blends neighbours, and no value or colour can be '
        'trusted: save PNG files where the masks were made.\n    plant_1.jpg\n    plant_2.jpg'
    ]


def problem_two_masks():
    Image.open('masks/plant_1.png').save('masks/plant_1.tif')
    return [], ['names that several masks have (1):\n    plant_1.png, plant_1.tif']


PROBLEMS = {name: call for name, call in globals().items() if name.startswith('problem_')}


@pytest.mark.parametrize('name', PROBLEMS)
def test_what_is_wrong_is_named_and_nothing_is_written(name, folder):
    arguments, messages = PROBLEMS[name]()
    text = prepare(*arguments)
    for message in messages:
        assert message in text, text
    assert not Path('data').exists()
