"""Panoptic segments: the JSON file, the maps, and the config agree."""
import re

import numpy as np
import pytest
from PIL import Image

from helpers.annotated import HEIGHT, IMAGES, WIDTH, make_config, make_dataset, make_panoptic, write_images, write_json
from mmparax.checks.detection_data import check_detection_data


@pytest.fixture
def root(tmp_path):
    write_images(tmp_path / 'images')
    return tmp_path


def examine(root, change=lambda content: None, sample=None, **options):
    content = make_panoptic(root / 'maps')
    change(content)
    write_json(root / 'annotations.json', content)
    dataset = make_dataset(root, 'CocoPanopticDataset', **options)
    return check_detection_data(make_config(dataset), 'train_dataloader.dataset', dataset, sample)


def segment(number=1, image=2):
    return lambda content: content['annotations'][image]['segments_info'][number]


def without(field):
    return lambda content: segment()(content).pop(field)


def with_value(field, value, number=1):
    return lambda content: segment(number)(content).update({field: value})


def turn_around(content):
    for category in content['categories']:
        category['isthing'] = 1 - category['isthing']


def reverse(content):
    content['categories'].reverse()


META = dict(classes=('cat', 'grass'), thing_classes=('cat', ), stuff_classes=('grass', ))
# case -> (change, options, is it a warning, count, kind, items or remedy)
CASES = {
    'no isthing': (lambda content: content['categories'][1].pop('isthing'), {}, False, 1, 'categories without "isthing"',
                   "'grass'"),
    'stuff as thing': (turn_around, {}, False, 2, 'the config call different things',
                       "'cat' is stuff in the file.*'grass' is a thing in the file"),
    'stuff before things': (reverse, dict(metainfo=dict(META, classes=('grass', 'cat'))), False, 1,
                            'not in the order things, stuff', 'heads number things first'),
    'classes of another data set': (lambda content: None, dict(metainfo=dict(classes=('cat', 'grass'))), False, 1,
                                    'lists of classes that do not agree', 'thing_classes'),
    'no area': (without('area'), {}, False, 1, 'segments without a usable "area"', 'segment 259: none'),
    'no bbox': (without('bbox'), {}, False, 1, 'segments without a usable "bbox"', 'segment 259'),
    'bbox as text': (with_value('bbox', '1 2 3 4'), {}, False, 1, 'segments without a usable "bbox"', "'1 2 3 4'"),
    'no id': (without('id'), {}, False, 1, 'segments without a usable "id"', 'a segment of category 2'),
    'no category': (without('category_id'), {}, False, 1, 'segments without a usable "category_id"', 'segment 259'),
    'unknown category': (with_value('category_id', 5), {}, False, 1, 'segments of categories that', 'segment 259: 5'),
    'id twice': (with_value('id', 7 + 2 * 65536), {}, False, 1, 'ids that several segments', '131079'),
    'area 0': (with_value('area', 0), {}, True, 1, 'segments with an area of 0', 'left|leaves'),
    'no segments_info': (lambda content: content['annotations'][2].pop('segments_info'), {}, False, 1,
                         'without a list "segments_info"', 'of image 3'),
    'no image_id': (lambda content: content['annotations'][2].pop('image_id'), {}, False, 1, 'annotations without "image_id"',
                    'number 2'),
    'unknown image': (lambda content: content['annotations'][2].update(image_id=99), {}, True, 1, 'annotations of images that',
                      'image 99'),
    'annotated twice': (lambda content: content['annotations'][2].update(image_id=1), {}, False, 1,
                        'images with several annotations', 'image 1'),
    'no height': (lambda content: content['images'][2].pop('height'), {}, False, 1, 'images without a "height"', 'image 3'),
    'image ids twice': (lambda content: content['images'][2].update(id=1), {}, False, 1, 'ids that several images',
                        "'0.jpg', '2.jpg'"),
    'an id that the map has not': (with_value('id', 5), {}, False, 1, 'panoptic maps without segments',
                                   "'2.png': ids 5; it has 259, 131079.*RGB"),
    'a segment that is not listed': (lambda content: content['annotations'][2]['segments_info'].pop(), {}, True, 1,
                                     'panoptic maps with segments that', "'2.png': ids 259"),
    'no segments': (lambda content: [entry.update(segments_info=[])
                                     for entry in content['annotations']], {}, False, 1, 'without any segment', ''),
    'nothing but stuff': (lambda content: [entry['segments_info'].pop(0)
                                           for entry in content['annotations']], dict(filter_cfg=dict(filter_empty_gt=True)),
                          False, 1, 'data sets without images', 'filter_empty_gt=True'),
    'no maps': (lambda content: None, dict(data_prefix=dict(img='images')), False, 1, 'data sets without panoptic maps',
                'data_prefix.seg'),
    'another folder': (lambda content: None, dict(data_prefix=dict(img='images', seg='images')), False, IMAGES, 'files that',
                       "There is '0.jpg'"),
    'instances': (lambda content: content.update(annotations=[dict(id=1, image_id=1)]), {}, False, 1,
                  'without a list "segments_info"', 'a file of instances has another format'),
}


@pytest.mark.parametrize('case', CASES)
def test_what_is_wrong_is_named(case, root):
    change, options, warning, count, kind, text = CASES[case]
    found = examine(root, change, **options)
    fitting = [problem for problem in found if re.search(kind, problem.kind)]
    assert len(fitting) == 1, found.format()
    assert (fitting[0].count, fitting[0].warning) == (count, warning)
    assert re.search(text, '; '.join(fitting[0].items) + ' ' + fitting[0].remedy), fitting[0].summarize()
    if warning:
        assert not found.errors, found.format()


def test_what_is_right_passes(root):
    assert not examine(root)
    assert not examine(root, filter_cfg=dict(filter_empty_gt=True, min_size=32))


MAPS = {
    'grey': (lambda pixels: pixels[..., 0], 'panoptic maps without segments'),
    'another size': (lambda pixels: pixels[:HEIGHT - 4], 'panoptic maps of another size.*2.png. is 64x44 and not 64x48'),
    'empty': (lambda pixels: pixels * 0, 'panoptic maps without segments'),
}


@pytest.mark.parametrize('case', MAPS)
def test_maps_that_are_not_of_their_images_are_named(case, root):
    change, message = MAPS[case]
    content = make_panoptic(root / 'maps')
    write_json(root / 'annotations.json', content)
    path = root / 'maps' / '2.png'
    pixels = np.array(Image.open(path))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    Image.fromarray(change(pixels)).save(path)
    dataset = make_dataset(root, 'CocoPanopticDataset')
    cfg = make_config(dataset)
    problem, = check_detection_data(cfg, 'train_dataloader.dataset', dataset, None).errors
    assert re.search(message, problem.summarize())
    assert not check_detection_data(cfg, 'train_dataloader.dataset', dataset, 2)  # the first and the last
    path.write_bytes(b'')
    problem, = check_detection_data(cfg, 'train_dataloader.dataset', dataset, None).errors
    assert problem.kind == 'panoptic maps that cannot be read'
    path.unlink()
    problem, = check_detection_data(cfg, 'train_dataloader.dataset', dataset, 0).errors
    assert re.search("files that .* names and '.*maps' has not: '2.png'", problem.summarize())
