"""Boxes from Pascal VOC's layout to COCO's."""
import json
import runpy
import sys
from pathlib import Path

import pytest
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools.coco import COCO

from helpers.config_files import CONFIGS
from mmparax.datasets import voc
from mmparax.errors import ParameterError

TOOL = CONFIGS.parent / 'tools' / 'dataset_tools' / 'voc2coco.py'
# Name -> (size, objects: class, xmin, ymin, xmax, ymax, difficult).
IMAGES = {
    'a': ((40, 30), [('pear', 1, 1, 40, 30, 0), ('apple', 11, 6, 20, 15, 1)]),
    'b': ((20, 30), [('apple', 3, 4, 12, 24, 0)]),
    'c': ((40, 30), []),
    'd': ((40, 30), [('pear', 2, 2, 9, 9, 0)]),
}
LISTS = {'train': 'ab', 'val': 'cd'}


def describe(size, objects):
    entries = ''.join(
        f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>'
        f'<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>' for name, left, top, right, bottom, difficult in objects)
    return f'<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{entries}</annotation>'


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in (voc.IMAGES, voc.ANNOTATIONS, voc.LISTS):
        Path('voc', part).mkdir(parents=True)
    for name, (size, objects) in IMAGES.items():
        Image.new('RGB', size).save(f'voc/JPEGImages/{name}.jpg')
        Path(f'voc/Annotations/{name}.xml').write_text(describe(size, objects))
    for name, members in LISTS.items():
        Path(f'voc/ImageSets/Main/{name}.txt').write_text('\n'.join(members) + '\n')
    return Path('voc')


def convert(*arguments, root='voc'):
    """Run the tool in this process; return what it exits with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['voc2coco.py', root, '--out-dir', 'out', *arguments])
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as stopped:
            return stopped.code


def boxes(path):
    """(image, class, box, crowd) of every annotation, read by pycocotools."""
    coco = COCO(path)
    return [(coco.imgs[entry['image_id']]['file_name'], coco.cats[entry['category_id']]['name'], entry['bbox'], entry['iscrowd'])
            for entry in coco.anns.values()]


def test_every_list_becomes_a_file(root, capsys):
    assert convert() is None
    text = capsys.readouterr().out
    assert boxes('out/train.json') == [('a.jpg', 'pear', [0, 0, 40, 30], 0), ('a.jpg', 'apple', [10, 5, 10, 10], 1),
                                       ('b.jpg', 'apple', [2, 3, 10, 21], 0)]
    assert boxes('out/val.json') == [('d.jpg', 'pear', [1, 1, 8, 8], 0)]
    content = json.loads(Path('out/val.json').read_text())
    assert [(entry['file_name'], entry['width'], entry['height']) for entry in content['images']] == [('c.jpg', 40, 30),
                                                                                                      ('d.jpg', 40, 30)]
    assert [(entry['id'], entry['name']) for entry in content['categories']] == [(1, 'apple'), (2, 'pear')]
    assert all(entry['area'] == entry['bbox'][2] * entry['bbox'][3] for entry in content['annotations'])
    assert "classes=('apple', 'pear')" in text and '2 (2)' in text
    assert 'Warning: 1 images without a box: c.jpg.' in text and "'apple' in val" in text
    assert sorted(path.name for path in Path('out').iterdir()) == ['train.json', 'val.json']


def test_mmdetection_reads_the_same_objects_from_both(root):
    """But for the right and lower edge: VOC's last pixel is inside, which mmdetection's reader leaves out."""
    convert()
    init_default_scope('mmdet')
    metainfo = dict(classes=('apple', 'pear'))
    ours = DATASETS.build(
        dict(type='CocoDataset', ann_file='out/train.json', data_prefix=dict(img='voc/JPEGImages/'), metainfo=metainfo,
             pipeline=[]))
    theirs = DATASETS.build(
        dict(type='VOCDataset', data_root='voc', ann_file='ImageSets/Main/train.txt', data_prefix=dict(sub_data_root=''),
             metainfo=metainfo, pipeline=[]))
    assert len(ours) == len(theirs) == 2
    for number in range(2):
        one, other = ours.get_data_info(number), theirs.get_data_info(number)
        assert Path(one['img_path']) == Path(other['img_path']).relative_to('.')
        for found, wanted in zip(one['instances'], other['instances'], strict=True):
            left, top, right, bottom = wanted['bbox']
            assert found['bbox'] == [left, top, right + 1, bottom + 1]
            assert (found['bbox_label'], found['ignore_flag']) == (wanted['bbox_label'], wanted['ignore_flag'])


@pytest.mark.parametrize('choice, expected', [('ignore', [0, 1, 0]), ('keep', [0, 0, 0]), ('drop', [0, 0])])
def test_difficult_objects(root, choice, expected):
    convert('--difficult', choice)
    assert [crowd for *_, crowd in boxes('out/train.json')] == expected


def test_order_of_the_classes(root):
    Path('names.txt').write_text('pear\napple\n')
    convert('--classes', 'pear', 'apple')
    by_hand = Path('out/train.json').read_bytes()
    assert [entry['name'] for entry in json.loads(by_hand)['categories']] == ['pear', 'apple']
    convert('--class-file', 'names.txt', '--force')
    assert Path('out/train.json').read_bytes() == by_hand


def test_coordinates_from_zero(root):
    convert('--zero-based', '--splits', 'val')
    assert boxes('out/val.json') == [('d.jpg', 'pear', [2, 2, 7, 7], 0)] and not Path('out/train.json').exists()


def test_an_image_with_another_ending_and_a_bom(root):
    Path('voc/JPEGImages/b.jpg').rename('voc/JPEGImages/b.PNG')
    Path('voc/ImageSets/Main/train.txt').write_text('\ufeffa\r\nb\r\n', encoding='utf-8')
    convert()
    assert {name for name, *_ in boxes('out/train.json')} == {'a.jpg', 'b.PNG'}


def damage(**objects):
    """Write other objects for an image, ('pear', 2, 2, 9, 9, 0) where nothing else is said."""
    for name, change in objects.items():
        Path(f'voc/Annotations/{name}.xml').write_text(describe((40, 30), [change]))


# What is done -> (kind of the problem, item).
PROBLEMS = {
    'no xml': (lambda: Path('voc/Annotations/a.xml').unlink(), 'names of the lists without a file NAME.xml in Annotations', 'a'),
    'no image': (lambda: Path('voc/JPEGImages/a.jpg').unlink(), 'names of the lists without an image in JPEGImages', 'a'),
    'endings in a list': (lambda: Path('voc/ImageSets/Main/train.txt').write_text('a.jpg\n'), 'without an image', 'a.jpg'),
    'twice in a list': (lambda: Path('voc/ImageSets/Main/val.txt').write_text('c\nd\nc\n'), 'val.txt has more than once', 'c'),
    'an empty list': (lambda: Path('voc/ImageSets/Main/val.txt').write_text('\n'), 'lists without a name', 'val.txt'),
    'an empty image': (lambda: Path('voc/JPEGImages/a.jpg').write_bytes(b''), 'images that cannot be read', 'a.jpg'),
    'a damaged xml': (lambda: Path('voc/Annotations/a.xml').write_text('<annotation>'), 'annotations that are no XML', 'a.xml'),
    'another size': (lambda: Image.new('RGB', (30, 40)).save('voc/JPEGImages/a.jpg'), 'made for another size of their image',
                     'a.xml: 40x30, a.jpg: 30x40'),
    'two images': (lambda: Image.new('RGB',
                                     (40, 30)).save('voc/JPEGImages/a.png'), 'names that several images have', 'a.jpg, a.png'),
    'text in a box': (lambda: damage(d=('pear', 'x', 2, 9, 9, 0)), 'is missing or no number', 'd.xml: pear'),
    'nan in a box': (lambda: damage(d=('pear', 'nan', 2, 9, 9, 0)), 'is missing or no number', 'd.xml: pear'),
    'edges exchanged': (lambda: damage(d=('pear', 9, 2, 2, 9, 0)), 'xmax or ymax is below', 'd.xml: pear (9, 2, 2, 9)'),
    'no name': (lambda: damage(d=('', 2, 2, 9, 9, 0)), 'objects without a name', 'd.xml'),
}


@pytest.mark.parametrize('case', PROBLEMS)
def test_what_is_wrong_is_named_and_nothing_is_written(root, case):
    change, kind, item = PROBLEMS[case]
    change()
    message = convert()
    lines = message.splitlines()
    assert lines[0].startswith('InputError: ') and "in 'voc'; nothing was written." in lines[0]
    place = next(number for number, line in enumerate(lines) if kind in line)
    assert item in lines[place + 1] and not Path('out').exists()


def test_everything_is_listed_at_once(root):
    damage(b=('plum', 2, 2, 9, 9, 0), d=('pear', 'x', 2, 9, 9, 0))
    Path('voc/Annotations/c.xml').unlink()
    message = convert('--classes', 'apple', 'pear')
    assert message.startswith('InputError: 3 problem(s)')  # b's annotation has another size, too
    for part in ('c', 'd.xml: pear', 'b.xml: 40x30, b.jpg: 20x30'):
        assert f'    {part}\n' in message + '\n'


def test_classes_that_were_not_given(root):
    message = convert('--classes', 'apple')
    assert 'classes that are not among the given ones (apple) (2)' in message and 'a.xml: pear' in message


@pytest.mark.parametrize('given, kind, expected', [
    ((0, 2, 9, 9), 'begin at 0, where VOC counts from 1', [0, 1, 9, 8]),
    ((2, 2, 50, 9), 'which were clipped', [1, 1, 39, 8]),
    ((5, 5, 5, 20), 'without an area in the image', None),
    ((50, 2, 60, 9), 'without an area in the image', None),
])
def test_boxes_that_are_mended_are_a_warning(root, given, kind, expected, capsys):
    damage(d=('pear', *given, 0))
    assert convert('--splits', 'train', 'val') is None
    assert [box for *_, box, _ in boxes('out/val.json')] == ([] if expected is None else [expected])
    warning, = [line for line in capsys.readouterr().out.splitlines() if kind in line]
    assert f'd.xml: pear ({", ".join(map(str, given))})' in warning and '--zero-based' in warning or expected != [0, 1, 9, 8]


def test_an_image_in_two_lists_is_a_warning(root, capsys):
    Path('voc/ImageSets/Main/trainval.txt').write_text('a\nb\nc\nd\n')
    Path('voc/ImageSets/Main/val.txt').write_text('a\nd\n')
    convert()
    assert "1 images of the list 'train' that the list 'val' has, too: a." in capsys.readouterr().out
    assert not Path('out/trainval.json').exists()


def test_folders_and_lists_that_are_not_there(root):
    assert "'voc' in it has: give that folder" in convert(root='.')
    assert "has no list test (.txt); it has train, val." in convert('--splits', 'test')
    assert "the folder 'absent' does not exist" in convert(root='absent')
    assert not Path('out').exists()


def test_what_is_there_is_kept(root):
    convert()
    before = Path('out/val.json').read_bytes()
    assert convert().startswith('ParameterError: --out-dir=') and '--force' in convert()
    assert convert('--force', '--splits', 'val') is None and Path('out/val.json').read_bytes() == before
    Path('out/val.json').write_text('{"info": {"description": "mine"}}')
    assert 'val.json in it is not from this conversion' in convert('--force')
    assert Path('out/val.json').read_text() == '{"info": {"description": "mine"}}'


def test_wrong_arguments(root):
    with pytest.raises(ParameterError) as error:
        voc.read_voc(root, classes=['pear', 'pear'], progress=False)
    assert error.value.parameter == 'classes'
    with pytest.raises(ParameterError) as error:
        voc.write_coco(voc.read_voc(root, progress=False), 'out', 'maybe')
    assert error.value.parameter == 'difficult' and not Path('out').exists()


def test_blood_cells():
    data = CONFIGS.parent.parent / 'shared' / 'real' / 'bccd'
    if not data.is_dir():
        pytest.skip(f'{data} is not here')
    found = voc.read_voc(data, progress=False)
    assert {split: len(images) for split, images in found.images.items()} == dict(train=205, val=87, test=72)
    assert found.classes == ['Platelets', 'RBC', 'WBC'] and found.count('test', 'WBC') == (71, 68)
    assert [problem.count for problem in found.problems.warnings] == [2]
