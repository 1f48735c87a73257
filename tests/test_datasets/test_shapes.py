"""Shapes of LabelMe and CVAT as masks and as COCO's annotations."""
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from helpers.mask_folders import read
from helpers.shape_files import HEIGHT, LABELME, WIDTH, convert, encode_mask, save_cvat, save_image, save_labelme
from mmparax.datasets import masks

SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30]]
LEFT = [[2, 5], [20, 5], [20, 35], [2, 35]]


def decode(counts):
    return coco_masks.decode(dict(size=[HEIGHT, WIDTH], counts=counts)).astype(bool)


def rasterize(*polygons):
    """(H, W) bool of polygons as pycocotools sees them."""
    lengths = coco_masks.frPyObjects([np.ravel(polygon).tolist() for polygon in polygons], HEIGHT, WIDTH)
    return coco_masks.decode(coco_masks.merge(lengths)).astype(bool)


def written(name, root='data/shapes'):
    return read(f'{root}/masks/{name}.png')


def join(points):
    return ';'.join(f'{x:.2f},{y:.2f}' for x, y in points)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- masks ----


def test_labelme_shapes_cover_what_labelme_says(here):
    (here / 'drawn').mkdir()
    for name, (kind, points, _) in LABELME.items():
        save_labelme(here / 'drawn' / f'{name}.json', [('thing', kind, points)])
    assert convert() is None
    for name, (_, _, counts) in LABELME.items():
        assert np.array_equal(written(name), decode(counts)), name
        assert Path(f'data/shapes/images/{name}.jpg').is_file()


def test_later_shapes_lie_above_and_labels_are_numbered(here, capsys):
    """As `shapes_to_label` of LabelMe: the pixels of each shape of the list in this order, counted there."""
    (here / 'drawn').mkdir()
    save_labelme(here / 'drawn' / 'all.json',
                 [(f'shape {number}', kind, points) for number, (kind, points, _) in enumerate(LABELME.values(), 1)])
    save_labelme(here / 'drawn' / 'none.json', [])
    assert convert() is None
    assert np.bincount(written('all').ravel()).tolist() == [742, 30, 149, 53, 29, 243, 129, 298, 470, 97]
    assert not written('none').any()
    command = shlex.split(re.search('Next: python tools/dataset_tools/prepare_masks.py (.*)', capsys.readouterr().out)[1])
    assert command[:2] == ['data/shapes/images', 'data/shapes/masks']
    assert command[command.index('--classes') + 1:] == ['background', *(f'shape {number}' for number in range(1, 10))]


@pytest.mark.parametrize('arguments, values, names', [
    ([], [0, 1, 2, 255], ['background', 'cat', 'dog']),
    (['--classes', 'dog', 'cat'], [0, 2, 1, 255], ['background', 'dog', 'cat']),
    (['--ignore', 'dog'], [0, 1, 255, 255], ['background', 'cat']),
    (['--unlabelled', 'ignore'], [255, 0, 1, 255], ['cat', 'dog']),
], ids=str)
def test_values_of_labels(arguments, values, names, here):
    (here / 'drawn').mkdir()
    patch = np.zeros((10, 8), bool)
    patch[2:, 3:] = True
    save_labelme(here / 'drawn' / 'a.json',
                 [('cat', 'rectangle', [[0, 0], [9, 9]]), ('dog', None, [[20, 0], [29, 0], [29, 9], [20, 9]]),
                  ('__ignore__', 'rectangle', [[40, 0], [49, 9]]), ('_background_', 'rectangle', [[4, 4], [6, 6]]),
                  dict(label='cat', shape_type='mask', points=[[40, 20], [47, 29]], mask=encode_mask(patch))])
    assert convert(*arguments) is None
    mask = written('a')
    assert [int(mask[y, x]) for x, y in ((15, 15), (1, 1), (25, 5), (45, 5))] == values
    assert mask[5, 5] == values[0]
    assert np.array_equal(mask[20:30, 40:48] == values[1], patch)
    assert json.loads(Path('data/shapes/classes.json').read_text())['classes'] == names


def test_cvat_shapes_cover_what_pycocotools_says(here):
    runs = [3, 4, 2, 5, 6]  # of a box of 5x4: pixels that are not in the mask, that are, ...
    shapes = [
        ('polygon', dict(label='cat', points=join(LEFT), z_order=2)),
        ('polygon', dict(label='dog', points=join(SQUARE), z_order=1)),
        ('box', dict(label='dog', xtl=40.5, ytl=3.25, xbr=50, ybr=12, z_order=0)),
        ('box', dict(label='dog', xtl=36, ytl=20, xbr=46, ybr=28, rotation=90, z_order=0)),
        ('mask', dict(label='cat', rle=', '.join(map(str, runs)), left=49, top=33, width=5, height=4, z_order=0)),
        ('ellipse', dict(label='dog', cx=30, cy=34, rx=8, ry=4, z_order=0)),
        ('tag', dict(label='dog')),
    ]
    save_cvat(here / 'drawn', [('a.jpg', shapes), ('b.jpg', [])], labels=('dog', 'cat', 'bird'))
    assert convert() is None
    mask = written('a')
    cat = rasterize(LEFT)
    cat[33:37, 49:54] |= np.repeat([False, True, False, True, False], runs).reshape(4, 5)
    assert np.array_equal(mask == 2, cat)
    dog = rasterize(SQUARE) | rasterize([[40.5, 3.25], [50, 3.25], [50, 12], [40.5, 12]])
    dog |= rasterize([[37, 19], [45, 19], [45, 29], [37, 29]])  # turned by 90 degrees about its middle
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = ((x + 0.5 - 30) / 8)**2 + ((y + 0.5 - 34) / 4)**2
    clear = ~cat & (np.abs(inside - 1) > 0.25)  # its border is that of a polygon with many corners
    assert np.array_equal((mask == 1)[clear], (dog | (inside < 1))[clear]) and clear.mean() > 0.7
    assert not written('b').any()
    assert json.loads(Path('data/shapes/classes.json').read_text())['classes'] == ['background', 'dog', 'cat']


def test_folders_of_splits_stay_and_others_join_the_name(here):
    save_cvat(here / 'drawn', [(name, [('polygon', dict(label='cat', points=join(SQUARE)))])
                               for name in ('train/a.jpg', 'train/b.jpg', 'val/a.jpg', 'test/cam/c.jpg')])
    assert convert('--link') is None
    names = sorted(path.relative_to('data/shapes/masks').as_posix() for path in Path('data/shapes/masks').rglob('*.png'))
    assert names == ['test/cam_c.png', 'training/a.png', 'training/b.png', 'validation/a.png']
    assert Path('data/shapes/images/training/a.jpg').is_symlink()
    found = masks.examine('data/shapes/images', 'data/shapes/masks', classes=['background', 'cat'], progress=False)
    assert {split: len(pairs) for split, pairs in found.pairs.items()} == dict(training=2, validation=1, test=1)


def test_images_elsewhere_and_other_spellings(here):
    (here / 'drawn/sub').mkdir(parents=True)
    save_labelme(here / 'drawn/a.json', [('cat', 'polygon', SQUARE)], image='..\\photos\\a.jpg')
    save_labelme(here / 'drawn/sub/b.json', [('cat', 'polygon', SQUARE)])
    Path('drawn/sub/b.jpg').rename('photos/b.JPG')
    tag = Image.Exif()
    tag[0x0112] = 6
    Image.fromarray(np.zeros((WIDTH, HEIGHT, 3), np.uint8)).save('photos/a.jpg', exif=tag)  # stored turned, as labelled upright
    assert convert('--image-dir', 'photos') is None
    assert sorted(path.name for path in Path('data/shapes/images').iterdir()) == ['a.jpg', 'sub_b.jpg']


# ---- COCO ----


def test_coco_objects_are_those_of_pycocotools(here, capsys):
    (here / 'drawn').mkdir()
    circle = LABELME['circle']
    save_labelme(here / 'drawn/a.json',
                 [('cat', 'polygon', SQUARE), ('dog', 'rectangle', [[45, 30], [40, 5]]), ('dog', *circle[:2]),
                  dict(label='cat', shape_type='polygon', points=LEFT, group_id=1),
                  dict(label='cat', shape_type='polygon', points=[[40, 30], [50, 30], [50, 38]], group_id=1),
                  ('__ignore__', 'polygon', SQUARE)])
    save_labelme(here / 'drawn/b.json', [('dog', 'polygon', SQUARE)])
    assert convert('--format', 'coco', '--val-ratio', '0.5') is None
    assert "Name the classes in this order: ('cat', 'dog')" in capsys.readouterr().out
    sets = {split: COCO(f'data/shapes/annotations/{split}.json') for split in ('training', 'validation')}
    names = {split: [image['file_name'] for image in coco.imgs.values()] for split, coco in sets.items()}
    assert sorted(sum(names.values(), [])) == ['a.jpg', 'b.jpg'] and all(len(each) == 1 for each in names.values())
    for split, (name, ) in names.items():
        assert Path(f'data/shapes/images/{split}/{name}').is_file()
    coco = sets[next(split for split, each in names.items() if each == ['a.jpg'])]
    assert {each['id']: each['name'] for each in coco.cats.values()} == {1: 'cat', 2: 'dog'}
    found = list(coco.anns.values())
    expected = [(1, rasterize(SQUARE)), (2, rasterize([[40, 5], [45, 5], [45, 30], [40, 30]])), (2, decode(circle[2])),
                (1, rasterize(LEFT, [[40, 30], [50, 30], [50, 38]]))]
    assert [each['category_id'] for each in found] == [category for category, _ in expected]
    for annotation, (_, pixels) in zip(found, expected):
        assert np.array_equal(coco.annToMask(annotation), pixels) and annotation['area'] == pixels.sum()
        y, x = pixels.nonzero()
        assert annotation['bbox'] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1] and annotation['iscrowd'] == 0


# ---- what is refused ----


def labelme_problems(root):
    (root / 'drawn').mkdir()
    more = dict(label='cat', points=SQUARE)
    save_labelme(root / 'drawn/a.json', [('cat', 'polygon', SQUARE), ('cat', 'hexagon', SQUARE), ('cat', 'polygon', SQUARE[:2]),
                                         ('', 'polygon', SQUARE), ('dog', 'polygon', [[10, 10], [70, 10], [30, 30]]),
                                         ('dog', 'polygon', [[10, float('nan')], [7, 10], [30, 30]]),
                                         dict(more, shape_type='mask', points=SQUARE[:2], mask='no PNG'),
                                         ('bird', 'polygon', SQUARE),
                                         dict(more, points='here')])
    save_labelme(root / 'drawn/b.json', [])
    Path('drawn/b.jpg').unlink()
    save_labelme(root / 'drawn/c.json', [], size=(WIDTH, HEIGHT))
    Path('drawn/d.json').write_text('{')
    Path('drawn/e.json').write_text('{"images": [], "annotations": [], "categories": []}')
    return [
        'shapes of an unknown kind (1): Known are polygon,', '--skip hexagon.\n    a.json: shape 2 (cat, hexagon)',
        'shapes with a wrong number of points (1):\n    a.json: shape 3 (cat, polygon): 2', 'shapes without a label (1):',
        'points outside the image (1): Look at whether they are meant for this image; --clip cuts them off at its border.\n'
        '    a.json: shape 5 (dog, polygon): (70, 10) in 56x40', 'shapes with points that are no numbers (2):',
        'shapes whose mask cannot be read (1):\n    a.json: shape 7', "'bird' in 1 image(s)", '--ignore bird',
        "images that are not there (1): If they are elsewhere, say where: --image-dir DIR.\n    b.json: b.jpg",
        'images of another size than the annotations say (1):\n    c.json: 40x56, c.jpg: 56x40',
        'files that cannot be read (1):\n    d.json (JSONDecodeError', "e.json (COCO's format"
    ]


def cvat_problems(root):
    save_cvat(root / 'drawn', [
        ('a.jpg', [('polyline', dict(label='cat', points=join(SQUARE))), ('cuboid', dict(label='cat', xtl1=3)),
                   ('polygon', dict(label='cat', points='1,1;2,2')), ('star', dict(label='cat')),
                   ('polygon', dict(label='cat', points='1,1;2,2;x,9')), ('polygon', dict(label='cat', points='1,1;99,2;3,9')),
                   ('mask', dict(label='cat', rle='1, 2', left=0, top=0, width=2, height=2)),
                   ('box', dict(label='bird', xtl=1, ytl=1, xbr=9, ybr=9))]),
        ('gone.jpg', []),
    ])
    (root / 'drawn/images/gone.jpg').unlink()
    return [
        'shapes that have no area (2): Leave them out: --skip polyline.\n    a.jpg: shape 1 (cat, polyline)\n    a.jpg: shape 2',
        'wrong number of points (1):\n    a.jpg: shape 3 (cat, polygon): 2', 'shapes of an unknown kind (1): Leave',
        'points that are no numbers (1):\n    a.jpg: shape 5', '(99, 2) in 56x40', 'do not fill its box.\n    a.jpg: shape 7',
        "'bird' in 1 image(s)", 'the XML file: gone.jpg'
    ]


@pytest.mark.parametrize('make', [labelme_problems, cvat_problems])
def test_all_problems_are_listed_at_once_and_nothing_is_written(make, here):
    messages = make(here)
    text = convert('--classes', 'cat', 'dog')
    assert text.startswith('InputError: ') and "problem(s) in 'drawn'; nothing was written.\n" in text
    for message in messages:
        assert message in text, text
    assert not Path('data').exists()


def test_what_can_be_left_out_and_cut(here):
    save_cvat(here / 'drawn', [('a.jpg', [('polyline', dict(label='cat', points=join(SQUARE))),
                                          ('polygon', dict(label='cat', points='10,10;99,10;99,30;10,30'))])])
    assert convert('--skip', 'polyline', '--clip') is None
    assert np.array_equal(written('a') == 1, rasterize([[10, 10], [99, 10], [99, 30], [10, 30]]))


@pytest.mark.parametrize('make, arguments, message', [
    (lambda: save_image(Path('drawn/a.jpg')), [], 'neither JSON files of LabelMe nor the annotations.xml of CVAT'),
    (lambda: None, [], "source: 'drawn' does not exist"),
    (lambda: save_cvat(Path('drawn'), [], more='<track id="0" label="cat"></track>'), [], 'as "CVAT for images"'),
    (lambda: save_labelme_in('drawn'), ['--image-dir', 'nowhere'], "image_dir: 'nowhere' does not exist"),
    (lambda: save_labelme_in('drawn'), ['--val-ratio', '0.5'], '--val-ratio=0.5 is not allowed: prepare_masks.py splits masks'),
    (lambda: save_labelme_in('drawn'), ['--format', 'coco'], 'there are 1 image(s) for training'),
    (lambda: save_labelme_in('drawn'), ['--ignore', 'dog'], "labels to ignore that are in no file (1):\n    'dog'"),
    (lambda: save_labelme_in('drawn'), ['--out-dir', '.'], 'which is read, must not be in it'),
], ids=range(8))
def test_wrong_sources_and_arguments(make, arguments, message, here):
    make()
    assert message in convert(*arguments)
    assert not Path('data').exists()


def save_labelme_in(folder):
    Path(folder).mkdir()
    save_labelme(Path(folder) / 'a.json', [('cat', 'polygon', SQUARE)])
    save_image(Path(folder) / 'unlabelled.jpg')


@pytest.mark.parametrize('form', ['masks', 'coco'])
def test_shapes_without_a_pixel_are_counted(form, here, capsys):
    speck = ('polygon', dict(label='cat', points='10.1,10.1;10.2,10.1;10.2,10.2'))
    save_cvat(here / 'drawn',
              [(name, [speck, ('polygon', dict(label='cat', points=join(SQUARE)))]) for name in ('a.jpg', 'b.jpg')])
    assert convert('--format', form) is None
    assert 'Warning: 2 shape(s) cover no pixel and are left out.' in capsys.readouterr().out


def test_images_without_a_file_are_counted_and_written_folders_are_known(here, capsys):
    save_labelme_in('drawn')
    assert convert() is None
    assert 'Warning: 1 image(s) have no annotations and are left out.' in capsys.readouterr().out
    assert 'it holds converted shapes already' in convert()
    assert convert('--force') is None
