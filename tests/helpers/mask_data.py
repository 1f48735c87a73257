"""Tiny data of segmentation in the layout of mmsegmentation, with a config of their data sets alone."""
import numpy as np
from mmengine.config import Config
from PIL import Image

from mmparax.checks.scan import scan_datasets
from mmparax.checks.scan_report import check_run_data
from mmparax.doctor import Doctor

CLASSES = ('soil', 'leaf', 'stem')
HEIGHT, WIDTH = 16, 24
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
LOADERS = ['train_dataloader', 'val_dataloader', 'test_dataloader']


def paint(number, values=(0, 1, 2)):
    """(image, mask) of vertical stripes of the values, in another order each time."""
    stripes = np.roll(values, number).repeat(WIDTH // len(values))
    mask = np.broadcast_to(np.pad(stripes, (0, WIDTH - len(stripes)), mode='edge'), (HEIGHT, WIDTH))
    image = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return image, mask.copy()


def write(folder, counts=(6, 3), values=(0, 1, 2), suffix='.jpg', dtype=np.uint8):
    """Write images and masks of a training and a validation set; return the folder."""
    for part, count in zip(('train', 'val'), counts):
        for kind in ('images', 'masks'):
            (folder / kind / part).mkdir(parents=True)
        for number in range(count):
            image, mask = paint(number, values)
            Image.fromarray(image).save(folder / 'images' / part / f'{number}{suffix}')
            Image.fromarray(mask.astype(dtype)).save(folder / 'masks' / part / f'{number}.png')
    return folder


def configure(folder, classes=CLASSES, **options):
    """The config of both sets; the test data are the validation data."""

    def load(part):
        dataset = dict(type='BaseSegDataset', data_root=str(folder), metainfo=dict(classes=classes), pipeline=PIPELINE,
                       data_prefix=dict(img_path=f'images/{part}', seg_map_path=f'masks/{part}'), **options)
        return dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dataset)

    metric = dict(type='IoUMetric')
    return Config(
        dict(default_scope='mmseg', train_dataloader=load('train'), val_dataloader=load('val'), test_dataloader=load('val'),
             val_evaluator=metric, test_evaluator=metric))


def examine(cfg):
    """What the doctor and the start of a training say about the data: ('ok', 'warning' or 'problem', the sentence).

    Both must refuse for the same reason, or neither.
    """
    try:
        status, text = Doctor(Config(cfg.to_dict())).check_data()
    except ValueError as error:
        status, text = 'problem', str(error)
    try:
        check_run_data(Config(cfg.to_dict()), None)
        refused = None
    except ValueError as error:
        refused = str(error)
    assert refused == (text if status == 'problem' else None)
    return status, text


def scan(cfg, loaders=LOADERS, **options):
    """Results of a scan by the place of the data set."""
    return {entry.place: entry for entry in scan_datasets(cfg, loaders, **options)}
