"""Annotation files in COCO's format: what is wrong is named, and corrected in a copy where no guess is needed."""
import copy
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools import mask as coco_masks

from helpers.annotated import (
    HEIGHT,
    IMAGES,
    LOAD,
    LOAD_MASKS,
    WIDTH,
    make_coco,
    make_config,
    make_dataset,
    make_panoptic,
    write_images,
    write_json,
)
from helpers.tasks import DATASETS as CONFIGS
from helpers.tasks import move_scenes
from mmparax.checks.coco import check_content
from mmparax.checks.coco_fix import fix_coco_file
from mmparax.checks.coco_masks import covers_image
from mmparax.checks.detection_data import check_detection_data
from mmparax.checks.fix_detection import fix_datasets
from mmparax.checks.usage import Usage
from mmparax.datasets.synthetic.writers import write_scenes
from mmparax.errors import InputError, ParameterError
from mmparax.utils.problems import ProblemList


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('coco')
    write_images(folder / 'images')
    return folder / 'images'


@pytest.fixture
def root(images, tmp_path):
    """A folder with the images, which a test may change."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for path in images.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return tmp_path


def examine(root, loader='train_dataloader', others=(), sample=None, **changes):
    dataset = make_dataset(root, **changes)
    return check_detection_data(make_config(dataset, loader, **dict(others)), f'{loader}.dataset', dataset, sample)


def set_all(field, value, key='annotations'):

    def change(content):
        for entry in content[key]:
            entry[field] = value

    return change


def set_one(field, value, key='annotations', number=2):
    return lambda content: content[key][number].update({field: value})


def drop(field, key='annotations', number=2):
    return lambda content: content[key][number].pop(field)


def drop_all(field, key='annotations'):

    def change(content):
        for entry in content[key]:
            del entry[field]

    return change


def each(function):

    def change(content):
        for entry in content['annotations']:
            function(entry)

    return change


def rle(height=HEIGHT, width=WIDTH):
    return dict(size=[height, width], counts=[0, height * width])


def encode(part=slice(None)):
    """A part of the compressed code of the first mask."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order='F')
    mask[6:36, 4:24] = 1
    return dict(size=[HEIGHT, WIDTH], counts=coco_masks.encode(mask)['counts'].decode()[part])


def name_as_windows(content):
    for image in content['images']:
        image['file_name'] = f'x\\{image["file_name"]}'


def to_corners(entry):
    x, y, width, height = entry['bbox']
    entry['bbox'] = [x, y, x + width, y + height]


def to_fractions(entry):
    entry['bbox'] = [entry['bbox'][0] / WIDTH, entry['bbox'][1] / HEIGHT, entry['bbox'][2] / WIDTH, entry['bbox'][3] / HEIGHT]


MASKS = dict(pipeline=[LOAD_MASKS])
POLYGONS = dict(pipeline=[dict(LOAD_MASKS, poly2mask=False)])
ERROR, WARNING = 'errors', 'warnings'
# case -> (change of a good file, options of the data set, status, (count, kind, items or remedy), whether it is corrected)
CASES = {
    'no height': (drop('height',
                       'images'), {}, ERROR, (1, 'images without a "height" in pixels', r"image 3 \('2.jpg'\) has none"), True),
    'width as text': (set_all('width', str(WIDTH), 'images'), {}, ERROR, (6, 'images without a "width"', "has '64'"), True),
    'no file name': (drop('file_name', 'images'), {}, ERROR, (1, 'images without a "file_name"', 'image 3'), False),
    'no image id': (drop('id', 'images'), {}, ERROR, (1, 'images without an "id"', "number 2"), False),
    'image ids twice': (set_one('id', 1,
                                'images'), {}, ERROR, (1, 'ids that several images have', r"image 1: '0.jpg', '2.jpg'"), False),
    'annotation ids 0': (set_all('id', 0), {}, ERROR, (1, 'ids that several annotations have', '--fix'), True),
    'annotation id twice': (set_one('id', 1), {}, ERROR, (1, 'ids that several annotations have', '1'), True),
    'no annotation id': (drop('id'), {}, ERROR, (1, 'annotations without "id"', 'number 2, annotation of image 2'), True),
    'unknown image': (set_one('image_id', 99), {}, WARNING, (1, r'annotations of images that .* does not list \(12 in all\)',
                                                             'of image 99'), True),
    'unknown images': (set_all('image_id',
                               99), dict(filter_cfg={}), ERROR, (12, 'annotations of images that', 'Nothing is learned'), False),
    'image ids as text': (each(lambda entry: entry.update(image_id=str(entry['image_id']))), dict(filter_cfg={}), ERROR,
                          (12, 'annotations of images that', "image '1'"), True),
    'unknown category': (set_one('category_id', 7), {}, WARNING, (1, 'annotations of categories that', 'category 7'), True),
    'unknown categories': (set_all('category_id', 7), {}, ERROR, (12, 'annotations of categories that', 'category 7'), False),
    'no category': (drop('category_id'), {}, ERROR, (1, 'annotations without "category_id"', 'number 2'), True),
    'categories twice': (set_one('id', 1, 'categories', 1), {}, ERROR, (1, 'categories with the same "id"', '1'), False),
    'no area': (drop_all('area'), {}, ERROR, (12, 'annotations without "area"', 'annotation 1 of image 1'), True),
    'area as text': (set_one('area', '600'), {}, ERROR, (1, 'whose "area" is not a finite number', "'600'"), True),
    'area 0': (set_one('area', 0), {}, WARNING, (1, 'boxes .* with an area of 0 or less', 'annotation 3 of image 2'), True),
    'no iscrowd': (drop('iscrowd'), {}, WARNING, (1, 'annotations without "iscrowd"', 'annotation 3 of image 2'), True),
    'iscrowd as text': (set_one('iscrowd', '0'), {}, ERROR, (1, 'whose "iscrowd" is not 0 or 1', "'0'"), True),
    'all iscrowd': (set_all('iscrowd', 1), {}, ERROR, (1, 'of which no annotation can be used',
                                                       '0 of 12 annotations usable: 12 marked "iscrowd".*write 0'), False),
    'no box': (drop('bbox'), {}, ERROR, (1, 'annotations without "bbox"', 'annotation 3'), True),
    'box as text': (set_one('bbox',
                            ['4', '6', '20', '30']), {}, ERROR, (1, 'whose "bbox" is not four finite numbers', "'20'"), True),
    'box of words': (set_one('bbox', '4 6 20 30'), {}, ERROR, (1, 'whose "bbox" is not four finite numbers', "4 6 20 30"), True),
    'box of three': (set_one('bbox',
                             [4, 6, 20]), {}, ERROR, (1, 'whose "bbox" is not four finite numbers', r'\[4, 6, 20\]'), True),
    'box of NaN': (set_one('bbox', [4, 6, float('nan'), 30]), {}, ERROR, (1, 'whose "bbox" is not four finite', 'nan'), True),
    'box of width 0': (set_one('bbox',
                               [4, 6, 0, 30]), {}, WARNING, (1, 'boxes .* with a width or height under 1 pixel', '0, 30'), True),
    'box of negative height': (set_one('bbox',
                                       [4, 36, 20, -30]), {}, WARNING, (1, 'boxes .* with a width or height', '-30'), True),
    'box outside': (set_one('bbox',
                            [70, 6, 20, 30]), {}, WARNING, (1, 'boxes .* outside of their images', r'\(64x48\): \[70'), True),
    'box beyond': (set_one('bbox', [50, 6, 20, 30]), {}, WARNING, (1, 'boxes .* that reach beyond their images', 'cut'), True),
    'boxes of width 0': (each(lambda entry: entry.update(bbox=[4, 6, 0, 30])), {}, ERROR,
                         (1, 'of which no annotation can be used', '12 with a box that is left out'), False),
    'boxes of corners': (each(to_corners), {}, ERROR, (12, 'boxes .* that seem to be two corners', 'subtract the first corner'),
                         False),
    'boxes of fractions': (each(to_fractions), {}, ERROR, (1, 'of which no annotation can be used', 'fractions of the images'),
                           False),
    'no masks': (drop_all('segmentation'), MASKS, ERROR, (12, r'annotations .* without a mask',
                                                          'annotation 1 .*train boxes alone'), False),
    'an empty mask': (set_one('segmentation', []), MASKS, ERROR, (1, 'annotations .* without a mask', 'annotation 3'), False),
    'no masks for boxes': (drop_all('segmentation'), {}, None, None, False),
    'a flat polygon': (set_one('segmentation',
                               [1, 2, 3, 4, 5, 6]), MASKS, ERROR, (1, 'neither a list of polygons', 'annotation 3'), False),
    'a short polygon': (set_one('segmentation', [[1, 2, 3, 4]]), MASKS, WARNING, (1, 'without one polygon of three points',
                                                                                  'annotation 3'), False),
    'an odd polygon': (set_one('segmentation',
                               [[1, 2, 3, 4, 5, 6, 7]]), MASKS, WARNING, (1, 'without one polygon', 'left|leaves'), False),
    'a polygon as text': (set_one('segmentation',
                                  [['1'] * 8]), MASKS, ERROR, (1, 'neither a list of polygons', 'annotation 3'), False),
    'short polygons': (set_all('segmentation', [[1, 2, 3, 4]]), MASKS, ERROR, (1, 'of which no annotation',
                                                                               '12 with a mask that is left out'), False),
    'a mask elsewhere': (set_one('segmentation',
                                 [[40, 40, 50, 40, 50, 46]]), MASKS, WARNING, (1, 'masks lie elsewhere', 'box 20x30 at'), False),
    'masks of another size': (set_all('segmentation',
                                      rle(20,
                                          20)), MASKS, ERROR, (12, 'run-length codes have another size', 'annotation 1'), False),
    'masks of other counts': (set_all('segmentation', dict(rle(),
                                                           counts=[0, 5])), MASKS, ERROR, (12, 'have another size', ''), False),
    'a code cut off': (set_one('segmentation', encode(slice(-2))), MASKS, ERROR, (1, 'run-length codes do not fill their images',
                                                                                  'annotation 3'), False),
    'an empty code': (set_one('segmentation', encode(slice(0))), MASKS, ERROR, (1, 'codes do not fill', 'annotation 3'), False),
    'codes that are right': (set_one('segmentation', encode()), MASKS, None, None, False),
    'a file twice': (set_one('file_name', '0.jpg',
                             'images'), {}, WARNING, (1, 'file names that several images', "'0.jpg'.*join"), False),
    'codes as polygons': (set_all('segmentation',
                                  rle()), POLYGONS, ERROR, (1, 'of which no annotation', '0 of 12.*poly2mask=True'), False),
    'a code as polygon': (set_one('segmentation', rle()), POLYGONS, WARNING,
                          (1, r'LoadAnnotations\(poly2mask=False\) does not read', 'poly2mask=True'), False),
    'no annotations': (lambda content: content.update(annotations=[]), {}, ERROR, (1, 'annotation files without any annotation',
                                                                                   ''), False),
    'no list of annotations': (lambda content: content.pop('annotations'), {}, ERROR,
                               (1, 'not in COCO', 'has no list "annotations"; it has .images.'), False),
    'no images': (lambda content: content.update(images=[]), {}, ERROR, (1, 'annotation files without images', ''), False),
    'only small images': (lambda content: None, dict(filter_cfg=dict(min_size=64)), ERROR,
                          (1, 'data sets without images',
                           r'6 have a side under 64 pixels.*filter_cfg=dict\(min_size=64\) leaves all'), False),
    'only empty images': (set_all('ignore', 1), dict(filter_cfg=dict(filter_empty_gt=True), metainfo=dict(classes=('bird', ))),
                          ERROR, (1, 'data sets without images', '6 others have no annotation of a class'), False),
    'some small images': (set_one('height', 10, 'images'), dict(filter_cfg=dict(min_size=32), pipeline=[]), WARNING,
                          (1, r'images that the filter leaves out of .* \(6 in all\)', '1 have a side under 32'), False),
    'no image of an index': (lambda content: None, dict(indices=0), ERROR, (1, 'data sets without images', 'indices=0'), False),
    'Windows names': (name_as_windows, {}, ERROR, (6, 'file names with Windows separators', r"'x\\\\0.jpg'.*--fix"), True),
    'names with folders': (set_one('file_name', 'old/place/1.jpg', 'images', 1), {}, ERROR,
                           (1, 'files that .* names and .* has not', "leave 'old/place' out of the names"), True),
    'other letters': (set_one('file_name', '2.JPG', 'images'), {}, ERROR, (1, 'files that', "There is '2.jpg'"), False),
    'an absent image': (set_one('file_name', 'x.jpg',
                                'images'), {}, ERROR, (1, 'files that', "'x.jpg'; .*data_prefix.img|x.jpg"), False),
    'another size': (set_one('width', 60,
                             'images'), {}, ERROR, (1, 'images of another size than', r'2.jpg. is 64x48 and not 60x48'), False),
}

# Errors in spite of which mmdetection goes on, with something else than what is meant.
SILENT = ('image ids twice', 'iscrowd as text', 'box of NaN', 'boxes of corners', 'another size', 'unknown images',
          'categories twice', 'a polygon as text', 'masks of other counts', 'an empty code')


@pytest.mark.parametrize('case', CASES)
def test_what_is_wrong_is_named(case, root):
    change, options, status, expected, _ = CASES[case]
    content = make_coco()
    change(content)
    write_json(root / 'annotations.json', content)
    found = examine(root, **options)
    if status is None:
        assert not found, found.format()
        return
    count, kind, text = expected
    fitting = [problem for problem in getattr(found, status) if re.search(kind, problem.kind)]
    assert len(fitting) == 1, found.format()
    assert fitting[0].count == count
    assert re.search(text, '; '.join(fitting[0].items) + ' ' + fitting[0].remedy), fitting[0].summarize()
    if status == WARNING:
        assert not found.errors, found.format()


@pytest.mark.parametrize('case', [name for name, (*_, fixed) in CASES.items() if fixed])
def test_what_can_be_corrected_is_right_in_the_copy(case, root):
    change, options, *_ = CASES[case]
    content = make_coco()
    change(content)
    original = root / 'annotations.json'
    write_json(original, content)
    before = original.read_bytes()
    changes = fix_coco_file(original, root / 'fixed.json', root / 'images')
    assert changes and all(changes.values())
    assert original.read_bytes() == before
    found = examine(root, **{**options, 'ann_file': 'fixed.json'})
    assert not found, found.format()
    found = examine(root, 'val_dataloader', ann_file='fixed.json', test_mode=True)
    assert not found, found.format()


def load(root, **options):
    """What mmdetection makes of the files, its pipeline included."""
    init_default_scope('mmdet')
    pack = dict(type='PackDetInputs', meta_keys=('img_id', ))
    load_image = dict(type='LoadImageFromFile')
    dataset = make_dataset(root, **options)
    steps = [step for step in dataset['pipeline'] if step['type'] != 'LoadImageFromFile'] or [LOAD]
    built = DATASETS.build({**dataset, 'pipeline': [load_image, *steps, pack]})
    return [built[number]['data_samples'] for number in range(len(built))]


@pytest.mark.parametrize('case', CASES)
def test_mmdetection_agrees(case, root):
    """What passes is loaded, with objects to learn; the errors below are those that it stops at, or learns nothing from."""
    change, options, status, _, fixed = CASES[case]
    content = make_coco()
    change(content)
    write_json(root / 'annotations.json', content)
    if fixed:
        fix_coco_file(root / 'annotations.json', root / 'fixed.json', root / 'images')
        assert sum(len(sample.gt_instances) for sample in load(root, **{**options, 'ann_file': 'fixed.json'})) > 0
    if status != ERROR:
        assert sum(len(sample.gt_instances) for sample in load(root, **options)) > 0
    elif case not in SILENT:
        try:
            samples = load(root, **options)
        except Exception:  # whatever it raises, without the name of the file or of the annotation
            return
        assert sum(len(sample.gt_instances) for sample in samples) == 0


def test_corrections_are_the_smallest_ones(root):
    good = make_coco()
    content = copy.deepcopy(good)
    content['annotations'][0].pop('area')
    content['annotations'][1].update(bbox=[str(value) for value in content['annotations'][1]['bbox']])
    content['annotations'][2].pop('bbox')
    content['annotations'][3].update(bbox=[70, 6, 20, 30], segmentation=[])
    content['annotations'][4].update(bbox=[50, -4, 20, 30])
    content['annotations'][5]['segmentation'].append([1, 2, 3])
    content['images'][0].pop('width')
    write_json(root / 'annotations.json', content)
    changes = fix_coco_file(root / 'annotations.json', root / 'fixed.json', root / 'images')
    fixed = json.loads((root / 'fixed.json').read_text())
    good['annotations'][4]['bbox'] = [50, 0, 14, 26]
    del good['annotations'][3]
    assert fixed['images'] == good['images']
    assert [entry['area'] for entry in fixed['annotations'][:1]] == [600]
    assert fixed['annotations'] == good['annotations']
    assert changes == {
        'areas filled in': 1,
        'boxes written as numbers': 1,
        'boxes taken from masks': 1,
        'sizes of images filled in': 1,
        'boxes dropped: outside of their images': 1,
        'boxes cut at the edges of their images': 1,
        'polygons dropped: fewer than three points, or half a point': 1,
    }


@pytest.mark.parametrize('case', ['boxes of corners', 'boxes of fractions', 'unknown categories', 'unknown images'])
def test_what_needs_a_guess_is_left_alone(case, root):
    """What could be meant by all annotations is for one to say who knows; above all, they are not dropped."""
    content = make_coco()
    CASES[case][0](content)
    write_json(root / 'annotations.json', content)
    assert not fix_coco_file(root / 'annotations.json', root / 'fixed.json', root / 'images')
    text = '\n'.join(fix_datasets(make_config(make_dataset(root)), root / 'fixed.json')[0])
    assert 'nothing that can be corrected' in text and 'Left in train_dataloader.dataset: ' in text
    assert not (root / 'fixed.json').exists()


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_other_encodings_are_named_and_corrected(encoding, root):
    write_json(root / 'annotations.json', make_coco(), encoding)
    found = examine(root)
    assert [(problem.kind, problem.count)
            for problem in found.errors] == [('annotation files that are not in plain UTF-8, which the toolboxes read', 1)]
    assert 'annotations.json' in found.errors[0].items[0] and '--fix' in found.errors[0].remedy
    fix_coco_file(root / 'annotations.json', root / 'fixed.json')
    assert not examine(root, ann_file='fixed.json')


BROKEN = {
    'cut off': (b'{"images": [\n{"id": 1,', 'no whole JSON file: .* in line 2, column'),
    'empty': (b'', 'no whole JSON file'),
    'another text': (b'{"a": "\xff\xfa"}', 'is no text in UTF-8'),
    'a list': (b'[1]', 'holds a list'),
    'deep': (b'[' * 100000, 'nested too deeply|no whole JSON'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_files_that_are_no_json_are_named_with_the_place(case, root):
    text, message = BROKEN[case]
    (root / 'annotations.json').write_bytes(text)
    problem, = examine(root).errors
    assert re.search(f'annotations.json.*{message}', problem.items[0])
    with pytest.raises(InputError, match=message):
        fix_coco_file(root / 'annotations.json', root / 'fixed.json')
    assert not (root / 'fixed.json').exists()


def turn(path, orientation):
    image = Image.open(path).copy()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


UNTURNED = [dict(type='LoadImageFromFile', color_type='color_ignore_orientation'), LOAD]
# orientation, pipeline, size in the file, what is said
TURNED = {
    'sideways, size as stored': (6, None, (WIDTH, HEIGHT), ERROR,
                                 'because they are turned.*is 48x64, turned by its EXIF tag .orientation 6'),
    'sideways, size as loaded': (6, None, (HEIGHT, WIDTH), None, None),
    'sideways, loaded as stored': (6, UNTURNED, (WIDTH, HEIGHT), None, None),
    'sideways, loaded as stored, other size': (6, UNTURNED, (HEIGHT, WIDTH), ERROR, 'is 64x48 and not 48x64'),
    'upside down': (3, None, (WIDTH, HEIGHT), WARNING, 'turned when loaded.*orientation 3'),
    'upright': (1, None, (WIDTH, HEIGHT), None, None),
}


@pytest.mark.parametrize('case', TURNED)
def test_images_turned_by_their_tags_have_the_size_as_loaded(case, root):
    orientation, pipeline, size, status, message = TURNED[case]
    turn(root / 'images' / '2.jpg', orientation)
    content = make_coco()
    content['images'][2].update(width=size[0], height=size[1])
    for entry in content['annotations'][4:6]:
        entry.update(bbox=[4, 6, 20, 30])
    write_json(root / 'annotations.json', content)
    found = examine(root, **(dict(pipeline=pipeline) if pipeline else {}))
    if status is None:
        assert not found, found.format()
    else:
        problem, = found
        assert problem.warning == (status == WARNING)
        assert re.search(message, problem.summarize()), problem.summarize()
    assert not examine(root, sample=0)


def test_a_broken_image_is_named(root):
    (root / 'images' / '3.jpg').write_bytes(b'')
    write_json(root / 'annotations.json', make_coco())
    problem, = examine(root).errors
    assert problem.kind == 'images that cannot be read' and '3.jpg' in problem.items[0]
    assert not examine(root, sample=2)  # the first and the last


EVALUATION = {
    'no iscrowd': (drop_all('iscrowd'), {}, ERROR, 'annotations without "iscrowd"'),
    'id 0': (set_one('id', 0), {}, WARNING, 'with the id 0'),
    'ids as text': (each(lambda entry: entry.update(id=f'a{entry["id"]}')), {}, ERROR, 'annotations whose "id" is a text'),
    'no masks': (drop_all('segmentation'), dict(val_evaluator=dict(type='CocoMetric', metric=['bbox', 'segm'])), ERROR,
                 'without a mask'),
    'no masks for boxes': (drop_all('segmentation'), dict(val_evaluator=dict(type='CocoMetric', metric='bbox')), None, None),
    'no area': (drop_all('area'), {}, ERROR, 'annotations without "area"'),
    'no annotations': (lambda content: content.pop('annotations'), {}, ERROR, 'not in COCO'),
    'format only': (lambda content: content.pop('annotations'), dict(val_evaluator=dict(type='CocoMetric', format_only=True)),
                    None, None),
}


@pytest.mark.parametrize('case', EVALUATION)
def test_faults_that_only_an_evaluation_meets(case, root):
    change, others, status, kind = EVALUATION[case]
    content = make_coco()
    change(content)
    write_json(root / 'annotations.json', content)
    # No filter in an evaluation, whatever the config says.
    found = examine(root, 'val_dataloader', others, test_mode=True, filter_cfg=dict(min_size=1000))
    if status is None:
        assert not found, found.format()
    else:
        problem = next(iter(found))
        assert re.search(kind, problem.kind) and problem.warning == (status == WARNING)


def test_a_mask_head_needs_masks(root):
    content = make_coco()
    drop_all('segmentation')(content)
    write_json(root / 'annotations.json', content)
    model = dict(type='MaskRCNN', roi_head=dict(mask_head=dict(type='FCNMaskHead')))
    assert 'without a mask' in examine(root, others=dict(model=model)).errors[0].kind


def test_a_folder_that_is_not_there_is_one_kind(root):
    write_json(root / 'annotations.json', make_coco())
    problem, = examine(root, data_prefix=dict(img='absent')).errors
    assert problem.count == IMAGES and 'The folder does not exist: set train_dataloader.dataset.data_prefix.img' in problem.remedy


def test_remote_images_and_other_data_sets_are_left_alone(root):
    write_json(root / 'annotations.json', make_coco())
    assert not examine(root, data_prefix=dict(img='s3://bucket/images'), backend_args=dict(backend='petrel'))
    (root / 'annotations.json').write_text('no JSON')
    assert not examine(root, kind='CocoCaptionDataset')


def test_shipped_data_have_no_problem(tmp_path):
    write_scenes(tmp_path / 'scenes', 6, 2, size=(64, 96), progress=False)
    for name in ('scenes_coco_instance_128x128', 'scenes_coco_panoptic_128x128'):
        cfg = Config(
            dict(move_scenes(Config.fromfile(CONFIGS / f'{name}.py').to_dict(), tmp_path / 'scenes'), default_scope='mmdet'))
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            found = check_detection_data(cfg, f'{loader}.dataset', cfg[loader].dataset, None)
            assert not found, found.format()


# ---- the files of a config ----


def test_the_files_of_a_config_are_corrected(root):
    for name, change in (('train', drop_all('area')), ('val', lambda content: None)):
        content = make_coco()
        change(content)
        write_json(root / f'{name}.json', content)
    val = make_dataset(root, ann_file='val.json', test_mode=True)
    cfg = make_config(make_dataset(root, ann_file='train.json'), val_dataloader=dict(dataset=val),
                      test_dataloader=dict(dataset=val))
    text = '\n'.join(fix_datasets(cfg, root / 'fixed.json')[0])
    assert re.search(r"train.json': 12 areas filled in. The corrected copy is '.*fixed.json'", text)
    assert re.search(r"To use it set train_dataloader.dataset.ann_file to '.*fixed.json'", text)
    assert re.search(r"val.json': nothing that can be corrected", text)
    assert not examine(root, ann_file='fixed.json')
    with pytest.raises(ParameterError, match='fixed.json.*it exists'):
        fix_datasets(cfg, root / 'fixed.json')


def test_several_files_go_into_a_folder_and_what_is_left_is_said(root):
    content = make_coco()
    content['images'][2]['id'] = 1
    drop_all('area')(content)
    for folder in ('train', 'val'):
        (root / folder).mkdir()
        write_json(root / folder / 'annotations.json', content)
    cfg = make_config(make_dataset(root, ann_file='train/annotations.json'),
                      val_dataloader=dict(dataset=make_dataset(root, ann_file='val/annotations.json')),
                      val_evaluator=dict(type='CocoMetric', ann_file=str(root / 'val' / 'annotations.json')))
    with pytest.raises(ParameterError, match='2 files need correction.*Give a folder'):
        fix_datasets(cfg, root / 'one.json')
    text = '\n'.join(fix_datasets(cfg, root / 'fixed')[0])
    assert sorted(path.name for path in (root / 'fixed').iterdir()) == ['train_annotations.json', 'val_annotations.json']
    assert 'val_dataloader.dataset.ann_file, val_evaluator.ann_file to' in text
    assert len(re.findall("Left in .*: 1 ids that several images have .*: image 1: '0.jpg', '2.jpg'", text)) == 2


def test_of_panoptic_segments_the_images_are_corrected(root):
    content = make_panoptic(root / 'maps')
    content['images'][1].pop('height')
    write_json(root / 'annotations.json', content, 'utf-8-sig')
    dataset = make_dataset(root, 'CocoPanopticDataset')
    (text, *_), left = fix_datasets(make_config(dataset), root / 'fixed')
    assert not left
    assert '1 encoding written as plain UTF-8; 1 sizes of images filled in' in text
    fixed = dict(dataset, ann_file='fixed/annotations.json')
    assert not check_detection_data(make_config(fixed), 'train_dataloader.dataset', fixed, None)


def test_the_doctor_corrects(root, tmp_path, monkeypatch, capsys):
    content = make_coco()
    set_all('id', 0)(content)
    write_json(root / 'annotations.json', content)
    config = tmp_path / 'config.py'
    config.write_text(f'default_scope = "mmdet"\ntrain_dataloader = dict(dataset={make_dataset(root)!r})\n')
    script = str(Path(__file__).parents[2] / 'tools' / 'doctor.py')
    monkeypatch.setattr(sys, 'argv', ['doctor.py', str(config), '--fix', str(tmp_path / 'fixed.json')])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name='__main__')
    assert ended.value.code == 0
    assert "annotations.json': 12 annotations numbered anew. The corrected copy is" in capsys.readouterr().out
    with pytest.raises(SystemExit,
                       match=r"--fix='.*fixed.json' is not allowed: it exists, and no annotation file is written over"):
        runpy.run_path(script, run_name='__main__')


def test_the_doctor_fails_if_errors_are_left(root, tmp_path, monkeypatch, capsys):
    content = make_coco()
    content['images'][2]['id'] = 1
    write_json(root / 'annotations.json', content)
    config = tmp_path / 'config.py'
    config.write_text(f'default_scope = "mmdet"\ntrain_dataloader = dict(dataset={make_dataset(root)!r})\n')
    monkeypatch.setattr(sys, 'argv', ['doctor.py', str(config), '--fix', str(tmp_path / 'fixed.json')])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(Path(__file__).parents[2] / 'tools' / 'doctor.py'), run_name='__main__')
    assert ended.value.code == 1 and 'Left in train_dataloader.dataset: 1 ids' in capsys.readouterr().out


def test_only_files_that_can_be_corrected_are_touched(root):
    with pytest.raises(InputError, match='no data set in COCO'):
        fix_datasets(make_config(dict(type='VOCDataset', ann_file='x.txt')), root / 'fixed')
    write_json(root / 'annotations.json', make_coco())
    with pytest.raises(ParameterError, match='it exists'):
        fix_coco_file(root / 'annotations.json', root / 'annotations.json')
    assert not fix_coco_file(root / 'annotations.json', root / 'fixed.json', root / 'images')
    assert not (root / 'fixed.json').exists()


def test_many_faults_are_counted():
    """Faults of one kind are counted, and twenty are kept."""
    content = make_coco()
    count = 50000
    content['annotations'] = [dict(content['annotations'][0], id=number + 1, bbox=[4, 6, 0, 30]) for number in range(count)]
    found = ProblemList()
    check_content(content, 'x.json', Usage(local=False), None, found)
    problem, = found.warnings
    assert problem.count == count and len(problem.items) == 20


def test_compressed_codes_are_judged_as_pycocotools_writes_them():
    generator = np.random.default_rng(0)
    for density in (0, 0.01, 0.5, 0.99, 1):
        code = coco_masks.encode(np.asfortranarray(generator.random((70, 90)) < density, np.uint8))
        counts = code['counts'].decode()
        assert covers_image(dict(size=code['size'], counts=counts))
        assert not covers_image(dict(size=[70, 91], counts=counts))
        assert not covers_image(dict(size=code['size'], counts=counts[:-1]))
        assert not covers_image(dict(size=code['size'], counts=counts + 'é'))
