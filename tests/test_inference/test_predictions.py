"""Predictions of every task as a table and at another size, and the pipelines that prepare images."""
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from PIL import Image

from mmparax.errors import InputError, MissingFileError
from mmparax.inference.drawing import INSTANCE_OFFSET
from mmparax.inference.predictions import (
    get_test_pipeline,
    loads_files,
    make_pipeline_input,
    read_image,
    tabulate_prediction,
)

CLASSES = ('wood', 'grass', 'digit 1')
LABELS = torch.tensor([[[0, 1, 1, 1], [0, 1, 1, 1]]])
SEGMENTS = torch.tensor([[[1, 1, 2 + INSTANCE_OFFSET, 3]]])  # class 3 is none of the classes
OBJECTS = InstanceData(labels=torch.tensor([2, 0]), scores=torch.tensor([0.9, 0.2]), bboxes=torch.tensor([[0., 1, 2, 3],
                                                                                                          [1, 1, 2, 2]]),
                       masks=torch.tensor([[[True, False]]] * 2))
SAMPLES = {
    'segmentation': dict(pred_sem_seg=PixelData(data=LABELS)),
    'panoptic': dict(pred_panoptic_seg=PixelData(sem_seg=SEGMENTS), pred_instances=OBJECTS),
    'detection': dict(pred_instances=OBJECTS),
    'classification': dict(pred_score=torch.tensor([0.1, 0.7, 0.2])),
}
TABLES = {
    'segmentation': (['class', 'of the pixels'], [('grass', '75.0%'), ('wood', '25.0%')]),
    'panoptic': (['segment', 'of the pixels'], [('grass', '50.0%'), ('(none)', '25.0%'), ('digit 1', '25.0%')]),
    'detection': (['object', 'score', 'box (left, top, right, bottom)'], [('digit 1', '0.90', '0, 1, 2, 3')]),
    'classification': (['class', 'score'], [('grass', '0.700'), ('digit 1', '0.200'), ('wood', '0.100')]),
}


@pytest.mark.parametrize('task', SAMPLES)
def test_tables(task):
    assert tabulate_prediction(BaseDataElement(**SAMPLES[task]), CLASSES, 0.3) == TABLES[task]


def test_the_test_pipeline_needs_no_annotations():
    load, flip, pack = (dict(type=name) for name in ('LoadImageFromFile', 'RandomFlip', 'PackSegInputs'))
    pipeline = [load, dict(type='LoadAnnotations'), pack]
    for cfg in (dict(test_dataloader=dict(dataset=dict(pipeline=pipeline)), test_pipeline=[flip]),
                dict(val_dataloader=dict(dataset=dict(pipeline=pipeline))), dict(test_pipeline=pipeline)):
        assert get_test_pipeline(Config(cfg)) == [load, pack]
    assert loads_files([load, pack]) and not loads_files([flip, pack])
    with pytest.raises(InputError, match='has no test_dataloader.dataset.pipeline'):
        get_test_pipeline(Config(dict(train_dataloader=dict(dataset=dict(pipeline=pipeline)))))


def test_images_are_read_in_rgb_order(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[..., 0] = 200
    Image.fromarray(pixels).save(tmp_path / 'red.png')
    image = read_image(str(tmp_path / 'red.png'))
    np.testing.assert_array_equal(image, pixels)
    assert make_pipeline_input('red.png', image)['ori_shape'] == (4, 6)
    with pytest.raises(MissingFileError, match='absent.png'):
        read_image(str(tmp_path / 'absent.png'))
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(InputError, match='cannot be read as an image'):
        read_image(str(tmp_path / 'text.png'))
