"""Folders of images and masks, and tools/dataset_tools/prepare_masks.py called on them in this process."""
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.config_files import CONFIGS
from mmparax.datasets.masks import SPLITS

TOOL = CONFIGS.parent / 'tools' / 'dataset_tools' / 'prepare_masks.py'
NAMES = ['background', 'leaf', 'stem']
COLORS = np.array([[30, 30, 30], [40, 200, 60], [220, 60, 40], [60, 60, 220]], np.uint8)  # the last: ignored
HEIGHT, WIDTH = 32, 48


def paint(number, ignored=255):
    """(image, mask) of four vertical stripes: the classes in another order each time, and ignored pixels."""
    order = np.roll([0, 1, 2, 3], number)
    stripes = np.broadcast_to(order.repeat(WIDTH // 4), (HEIGHT, WIDTH))
    return COLORS[stripes], np.where(stripes == 3, ignored, stripes).astype(np.uint8)


def save(folder, count=5, suffix='.jpg', ignored=255):
    for kind in ('images', 'masks'):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        image, mask = paint(number, ignored)
        Image.fromarray(image).save(folder / 'images' / f'plant_{number}{suffix}', quality=95, subsampling=0)
        Image.fromarray(mask).save(folder / 'masks' / f'plant_{number}.png')
    return folder


def prepare(*arguments, classes=NAMES, folders=('images', 'masks')):
    """Run the tool in this process; return what it exits with."""
    arguments = [*folders, '--out-dir', 'data/mine', *(['--classes', *classes] if classes else []), *arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['prepare_masks.py', *arguments])
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as stopped:
            return stopped.code


def split(root='data/mine'):
    return {
        part: sorted(path.stem for path in Path(root, 'images', part).iterdir()) for part in SPLITS
        if Path(root, 'images', part).is_dir()
    }


def read(path):
    return np.asarray(Image.open(path))
