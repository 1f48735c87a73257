"""Small data sets of detection that are right, to be broken by tests."""
import json

import numpy as np
from mmengine.config import Config
from PIL import Image

WIDTH, HEIGHT, IMAGES = 64, 48, 6
CLASSES = ('cat', 'dog')
LOAD = dict(type='LoadAnnotations', with_bbox=True)
LOAD_MASKS = dict(LOAD, with_mask=True)


def write_images(folder, names=None):
    """Write six images of 64x48 pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / (names[number] if names else f'{number}.jpg'))


def make_coco():
    """Two objects in each of six images, a quadrangle each."""
    images = [dict(id=number + 1, file_name=f'{number}.jpg', width=WIDTH, height=HEIGHT) for number in range(IMAGES)]
    annotations = []
    for image in images:
        for category, (x, y, width, height) in enumerate([(4, 6, 20, 30), (30, 10, 24, 16)], 1):
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image['id'], category_id=category, bbox=[x, y, width, height],
                     area=width * height, iscrowd=0, segmentation=[corners]))
    return dict(images=images, annotations=annotations,
                categories=[dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)])


def make_panoptic(folder):
    """A thing on stuff in each of six images, whose maps go into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    annotations = []
    for number in range(IMAGES):
        pixels = np.full((HEIGHT, WIDTH, 3), (3, 1, 0), np.uint8)
        pixels[6:36, 4:24] = 7, 0, number
        Image.fromarray(pixels).save(folder / f'{number}.png')
        segments = [
            dict(id=7 + 256**2 * number, category_id=1, iscrowd=0, area=600, bbox=[4, 6, 20, 30]),
            dict(id=3 + 256, category_id=2, iscrowd=0, area=WIDTH * HEIGHT - 600, bbox=[0, 0, WIDTH, HEIGHT])
        ]
        annotations.append(dict(image_id=number + 1, file_name=f'{number}.png', segments_info=segments))
    categories = [dict(id=1, name='cat', isthing=1), dict(id=2, name='grass', isthing=0)]
    return dict(images=make_coco()['images'], annotations=annotations, categories=categories)


def make_dataset(root, kind='CocoDataset', **changes):
    """The config of a data set of these files."""
    dataset = dict(type=kind, data_root=str(root), ann_file='annotations.json', data_prefix=dict(img='images'),
                   metainfo=dict(classes=CLASSES), pipeline=[dict(type='LoadImageFromFile'), LOAD])
    if 'Panoptic' in kind:
        dataset.update(data_prefix=dict(img='images', seg='maps'),
                       metainfo=dict(classes=('cat', 'grass'), thing_classes=('cat', ), stuff_classes=('grass', )))
    return {**dataset, **changes}


def make_config(dataset, loader='train_dataloader', **others):
    """A config of one data set."""
    return Config({'default_scope': 'mmdet', loader: dict(dataset=dataset), **others})


def write_json(path, content, encoding='utf-8'):
    path.write_bytes(json.dumps(content).encode(encoding))
