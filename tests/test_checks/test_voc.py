"""Boxes in Pascal VOC's format: lists, XML files, images."""
import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import DATASETS, TASK_UTILS, init_default_scope
from PIL import Image

from helpers.annotated import CLASSES, HEIGHT, IMAGES, WIDTH, make_config, write_images
from mmparax.checks.detection_data import check_detection_data

BCCD = next((path for parent in Path(__file__).parents if (path := parent / 'shared' / 'real' / 'bccd').is_dir()), None)
SIZE = f'<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>'


def make_object(box=(5, 7, 24, 36), name='cat', more='<difficult>0</difficult>'):
    corners = ''.join(f'<{corner}>{value}</{corner}>' for corner, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
    return f'<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>'


def make_xml(objects=None, size=SIZE):
    return f'<annotation>{size}{objects or make_object() + make_object((31, 11, 54, 26), "dog")}</annotation>'


@pytest.fixture
def root(tmp_path):
    write_images(tmp_path / 'JPEGImages')
    (tmp_path / 'Annotations').mkdir()
    for number in range(IMAGES):
        (tmp_path / 'Annotations' / f'{number}.xml').write_text(make_xml())
    (tmp_path / 'train.txt').write_text(''.join(f'{number}\n' for number in range(IMAGES)))
    return tmp_path


def examine(root, loader='train_dataloader', sample=None, **options):
    dataset = dict(type='VOCDataset', data_root=str(root), ann_file='train.txt', data_prefix=dict(sub_data_root=''),
                   metainfo=dict(classes=CLASSES), pipeline=[], **{'test_mode': not loader.startswith('train')})
    dataset.update(options)
    return check_detection_data(make_config(dataset, loader), f'{loader}.dataset', dataset, sample)


def test_what_is_right_passes(root):
    for loader in ('train_dataloader', 'val_dataloader'):
        found = examine(root, loader)
        assert not found, found.format()
    (root / 'Annotations' / '2.xml').write_text(make_xml(size=''))
    assert not examine(root)


XML = {
    'no XML': ('<annotation>', False, 'XML files that cannot be read', '2.xml'),
    'no numbers in size': (make_xml(size='<size><width>a</width></size>'), False, 'XML files without a size', 'nanxnan'),
    'size 0': (make_xml(size='<size><width>0</width><height>0</height></size>'), False, 'XML files without a size', '0x0'),
    'size in fractions': (make_xml(size='<size><width>64.0</width><height>48</height></size>'), False, 'XML files without a size',
                          ''),
    'another size': (make_xml(size='<size><width>48</width><height>64</height></size>'), False, 'images of another size',
                     '64x48 and not 48x64'),
    'an unknown class': (make_xml(make_object(name='bird') * 2 + make_object()), True,
                         'objects of classes that the data set has not', "2 'bird'.*has 'cat', 'dog'"),
    'no name': (make_xml(make_object() + '<object/>'), False, 'objects without a <name>', 'object 2'),
    'box without width': (make_xml(make_object() + make_object((5, 7, 5, 36))), False, 'boxes without width or height',
                          r"object 2 .'cat'.: 5, 7, 5, 36 in 64x48.*bbox_min_size=1"),
    'box without width in pixels': (make_xml(make_object(
        (5.2, 7, 5.9, 36))), False, 'boxes without width or height', '5.2, 7, 5.9'),
    'corners exchanged': (make_xml(make_object((24, 7, 5, 36))), False, 'boxes without width or height', '24, 7, 5'),
    'box outside': (make_xml(make_object() + make_object((80, 7, 90, 36))), False, 'boxes outside of their images', '80, 7'),
    'box beyond': (make_xml(make_object((50, 7, 80, 36))), True, 'boxes that reach beyond their images', 'cut'),
    'box as words': (make_xml(make_object(('a', 7, 24, 36))), False, 'boxes that are not four numbers', 'xmin=a'),
    'no box': (make_xml('<object><name>cat</name></object>'), False, 'boxes that are not four numbers', 'xmin=None'),
    'difficult as words': (make_xml(make_object(more='<difficult>Unspecified</difficult>')), False, '<difficult> is no number',
                           'Unspecified'),
    'no objects': ('<annotation/>', True, 'XML files without objects', '2.xml'),
}


@pytest.mark.parametrize('case', XML)
def test_what_is_wrong_in_an_xml_file_is_named(case, root):
    text, warning, kind, message = XML[case]
    (root / 'Annotations' / '2.xml').write_text(text)
    found = examine(root)
    fitting = [problem for problem in found if re.search(kind, problem.kind)]
    assert len(fitting) == 1 and len(found.errors) == (not warning), found.format()
    assert fitting[0].warning == warning
    assert re.search(message, fitting[0].summarize()), fitting[0].summarize()


def remove(path):
    return lambda root: (root / path).unlink()


def list_names(text):
    return lambda root: (root / 'train.txt').write_text(text)


FILES = {
    'no XML file': (remove('Annotations/2.xml'), {}, "files that .*train.txt' names and .*Annotations' has not: '2.xml'"),
    'no image': (remove('JPEGImages/2.jpg'), {}, "files that .*JPEGImages' has not: '2.jpg'"),
    'another suffix': (lambda root:
                       (root / 'JPEGImages' / '2.jpg').rename(root / 'JPEGImages' / '2.png'), {}, "'2.jpg'.*There is '2.png'"),
    'a broken image': (lambda root: (root / 'JPEGImages' / '2.jpg').write_bytes(b''), {}, 'images that cannot be read: .*2.jpg'),
    'names with suffixes': (list_names('0.jpg\n1\n'), {}, r"names with a suffix in .*: '0.jpg'"),
    'names with labels': (list_names('0  1\n1\n'), {}, "lines of .* with more than a name: '0  1'"),
    'empty lines': (list_names('0\n\n1\n'), {}, 'empty lines in .*: line 2'),
    'a list with a mark': (list_names('\ufeff0\n1\n'), {}, 'begin with a byte-order mark: .*train.txt'),
    'an empty list': (list_names(''), {}, 'data sets without images: .*train.txt. has 0 names'),
    'no list': (remove('train.txt'), {}, 'lists of images that cannot be read'),
    'no sub_data_root': (lambda root: None, dict(data_prefix={}),
                         r'has no sub_data_root, so .*data_prefix=dict\(sub_data_root=..\)'),
    'another sub_data_root': (lambda root: None, dict(data_prefix=dict(sub_data_root='VOC2012')),
                              'The folder does not exist: set train_dataloader.dataset.data_prefix.sub_data_root'),
    'other classes': (lambda root: None, dict(metainfo=dict(classes=('bird', ))),
                      r'0 of 12 objects usable: 12 of unknown classes \(cat, dog\)'),
    'small boxes': (lambda root: None, dict(filter_cfg=dict(bbox_min_size=32)),
                    '0 of 12 objects usable: 12 difficult or smaller than '
                    'bbox_min_size=32'),
    'a filter': (lambda root: None, dict(filter_cfg=dict(min_size=100)),
                 r'data sets without images: .*filter_cfg=dict\(min_size=100\)'),
    'an empty filter': (lambda root: None, dict(metainfo=dict(classes=('bird', )), filter_cfg=dict(filter_empty_gt=True)),
                        r'without images: .*filter_empty_gt=True'),
}


@pytest.mark.parametrize('case', FILES)
def test_what_is_wrong_with_files_is_named(case, root):
    change, options, message = FILES[case]
    change(root)
    found = examine(root, **options)
    assert any(re.search(message, problem.summarize()) for problem in found.errors), found.format()


HARMLESS = {
    'in an evaluation': ('val_dataloader', {}),
    'ignored': ('train_dataloader', dict(filter_cfg=dict(bbox_min_size=1))),
    'left out': ('train_dataloader', dict(pipeline=[dict(type='mmdet.FilterAnnotations', min_gt_bbox_wh=(1, 1))])),
}


@pytest.mark.parametrize('case', HARMLESS)
def test_empty_boxes_are_a_warning_where_they_do_no_harm(case, root):
    loader, options = HARMLESS[case]
    (root / 'Annotations' / '2.xml').write_text(make_xml(make_object() + make_object((5, 7, 5, 36))))
    problem, = examine(root, loader, **options)
    assert problem.warning and problem.kind == 'boxes without width or height'


def test_turned_images_are_named(root):
    path = root / 'JPEGImages' / '2.jpg'
    image = Image.open(path).copy()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    problem, = examine(root).errors
    assert 'because they are turned when loaded' in problem.kind
    assert not examine(root, pipeline=[dict(type='LoadImageFromFile', imdecode_backend='turbojpeg')])


@pytest.mark.skipif(BCCD is None, reason='shared/real/bccd is not here')
@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_real_data_pass(split):
    """Blood cells, of which two have a box without width."""
    found = examine(BCCD, 'train_dataloader' if split == 'train' else 'val_dataloader', ann_file=f'ImageSets/Main/{split}.txt',
                    metainfo=dict(classes=('RBC', 'WBC', 'Platelets')),
                    filter_cfg=dict(bbox_min_size=1) if split == 'train' else None)
    assert [(problem.kind, problem.count, problem.warning)
            for problem in found] == [('boxes without width or height', 1, True)] * (split != 'test')


def test_mmdetection_agrees(root):
    """Its class reads the same files, and an empty box makes the target of its own regression infinite or NaN."""
    init_default_scope('mmdet')
    (root / 'Annotations' / '2.xml').write_text(make_xml(make_object() + make_object((5, 7, 5, 36))))
    options = dict(type='VOCDataset', data_root=str(root), ann_file='train.txt', data_prefix=dict(sub_data_root=''),
                   metainfo=dict(classes=CLASSES), pipeline=[])
    boxes = {}
    for name, filter_cfg in (('kept', None), ('ignored', dict(bbox_min_size=1))):
        instances = DATASETS.build({**options, 'filter_cfg': filter_cfg})[2]['instances']
        boxes[name] = torch.tensor([instance['bbox'] for instance in instances if not instance['ignore_flag']]).float()
    coder = TASK_UTILS.build(dict(type='DeltaXYWHBBoxCoder'))
    assert not coder.encode(boxes['kept'], boxes['kept']).isfinite().all()  # ground truth among the proposals
    assert coder.encode(boxes['ignored'], boxes['ignored']).isfinite().all()
