"""What LabelMe and CVAT write, on small images, and tools/dataset_tools/polygons2masks.py called on it in this process."""
import base64
import io
import json
import runpy
import sys
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from PIL import Image

from helpers.config_files import CONFIGS

TOOL = CONFIGS.parent / 'tools' / 'dataset_tools' / 'polygons2masks.py'
HEIGHT, WIDTH = 40, 56
# Kind, points, and the pixels as COCO's run lengths of `shape_to_mask` of LabelMe 6.3.1 (its file labelme/utils/shape.py) at
# 56x40 pixels, made with pycocotools.mask.encode.
LABELME = dict(
    polygon=('polygon', [[3.2, 4.7], [30.5, 2.1], [41.9, 25.3], [22.4, 36.8],
                         [8.6, 19.0]], 'l32V13M3M3M3M2N1O2N1O1O1O1O2N1N2O1O1O2N1O1OO100O1O100O10O03N2M3M3N2M3N2M3N2M3M3Nh`0'),
    concave=('polygon', [[5, 5], [45, 5], [45, 34], [25.5, 12.5],
                         [5, 34]], ']6n0:O1O1O1O1O1N2O1O1O1O1O1O1O1O1O1N2O1O1O1O11O1O1O1O2N1O1O1O1O1O1O1O1O1O2N1O1O1O1O1Z<'),
    rectangle=('rectangle', [[40.4, 30.6], [10.5, 7.5]], 'g<h0`000000000000000000000000000000000000000000000000000000000000ab0'),
    circle=('circle', [[20.3, 18.7], [27.9, 24.2]], 'P=6P14M2N2N2N2O0O2O0000000001N101N2N2N2N3LRP1'),
    circle_beyond_the_image=('circle', [[50, 5], [55.5, 14]], 'j`17o04N1O1O1O1O00001O0000000000O10000'),
    oriented_rectangle=('oriented_rectangle', [[12, 20.5], [28.3, 4.2], [44, 19.9],
                                               [27.7,
                                                36.2]], 'd?1V12N2N2N2N2N2N2N3M2N2N2N2N2N2N2N02N2N2N2N2N2N2N2N1O2N2N2N2N2N2N2NV='),
    line=('line', [[4, 6], [50.5, 33.3]],
          'j21U12O2N2M2O20O010O10O10O010O01000O010O01000O010O010O10O10O010O01000O010O01000O010O010O10O10O010N1N3N2N1Nd1'),
    linestrip=('linestrip', [[4, 6], [30, 8.5],
                             [25, 33]], 'R5:o0O0000000000000000000000010O000000BJJ61OO1L44LG99;01O00000014H3K5K5K5Klh0'),
    point=('point', [[17.4, 29.6]], 'k?5R12N2N2O00000001N2N2N^X1'))


def save_image(path, height=HEIGHT, width=WIDTH):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)


def encode_mask(mask):
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).save(buffer, 'PNG')
    return base64.b64encode(buffer.getvalue()).decode()


def save_labelme(path, shapes, image=None, size=(HEIGHT, WIDTH), **more):
    """A JSON file with (label, kind, points) or dicts as shapes, and its image."""
    image = f'{path.stem}.jpg' if image is None else image
    save_image(path.parent / image.replace('\\', '/'))
    entries = [
        shape if isinstance(shape, dict) else dict(label=shape[0], shape_type=shape[1], points=shape[2], group_id=None, flags={})
        for shape in shapes
    ]
    path.write_text(
        json.dumps(
            dict(version='5.5.0', flags={}, shapes=entries, imagePath=image, imageData=None, imageHeight=size[0],
                 imageWidth=size[1], **more)))


def save_cvat(folder, images, labels=('cat', 'dog'), more=''):
    """annotations.xml with (name, [(tag, attributes)]) as images, and the images in the folder ``images``."""
    parts = ['<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task><labels>']
    parts += [f'<label><name>{label}</name><attributes></attributes></label>' for label in labels]
    parts.append(f'</labels></task></meta>{more}')
    for number, (name, shapes) in enumerate(images):
        save_image(folder / 'images' / name)
        parts.append(f'<image id="{number}" name={quoteattr(name)} width="{WIDTH}" height="{HEIGHT}">')
        for tag, attributes in shapes:
            text = ' '.join(f'{key}={quoteattr(str(value))}' for key, value in attributes.items())
            parts.append(f'<{tag} source="manual" occluded="0" {text}><attribute name="seen">true</attribute></{tag}>')
        parts.append('</image>')
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'annotations.xml').write_text('\n'.join([*parts, '</annotations>']))


def convert(*arguments, source='drawn', out='data/shapes'):
    """Run the tool in this process; return what it exits with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['polygons2masks.py', source, '--out-dir', out, *arguments])
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as stopped:
            return stopped.code
