"""Pictures of predictions and of the ground truth, of every task."""
import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmparax.inference.drawing import draw_sample, draw_truth, enlarge, join_pictures, make_palette
from mmparax.inference.picture_hook import encode_picture, name_pictures

CLASSES, PALETTE = ('road', 'tree', 'Bäume'), [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
IMAGE = np.full((600, 800, 3), 100, np.uint8)
LABELS = np.zeros((600, 800), np.int64)
LABELS[:, 400:] = 1
LABELS[:100] = 255  # no class


def seg(labels, prefix='pred'):
    return BaseDataElement(**{f'{prefix}_sem_seg': PixelData(data=torch.tensor(labels)[None])})


def objects(**fields):
    masks = np.zeros((2, 600, 800), bool)
    masks[0, 300:400, 300:400] = masks[1, 100:200, 500:700] = True
    return InstanceData(bboxes=torch.tensor([[300., 300, 400, 400], [500, 100, 700, 200]]), labels=torch.tensor([0, 2]),
                        **fields), masks


def tint(picture, y, x):
    """The channel that is stronger than the image, or None."""
    values = picture[y, x].astype(int) - 100
    return int(values.argmax()) if values.max() > 20 else None


def test_class_maps_are_coloured_and_named():
    drawn = draw_sample(IMAGE, seg(LABELS), CLASSES, PALETTE)
    assert drawn.shape == IMAGE.shape and drawn.dtype == np.uint8
    assert tint(drawn, 550, 50) == 0 and tint(drawn, 550, 750) == 1 and tint(drawn, 50, 50) is None
    assert (drawn == 255).all(-1).sum() > 50  # names
    truth = draw_truth(IMAGE, seg(LABELS, 'gt'), CLASSES, PALETTE)
    assert np.array_equal(truth, drawn)
    small = draw_truth(IMAGE, seg(LABELS[::2, ::2].copy(), 'gt'), CLASSES, PALETTE)  # loaded before the resizing
    assert np.abs(small.astype(int) - truth).mean() < 3
    assert draw_truth(IMAGE, BaseDataElement(), CLASSES, PALETTE) is None


def test_panoptic_segments_of_one_class_differ():
    segments = np.full((600, 800), 3)  # none of the classes
    segments[:, :300], segments[:, 300:600] = 1001, 2001
    sample = BaseDataElement(pred_panoptic_seg=PixelData(sem_seg=torch.tensor(segments)[None]))
    drawn = draw_sample(IMAGE, sample, CLASSES, PALETTE)
    assert tint(drawn, 500, 50) == tint(drawn, 500, 350) == 1 and tint(drawn, 500, 700) is None
    assert drawn[500, 50, 1] != drawn[500, 350, 1]


def test_objects_below_the_threshold_are_left_out():
    found, masks = objects(scores=torch.tensor([0.9, 0.2]))
    found.masks = torch.tensor(masks)
    drawn = draw_sample(IMAGE, BaseDataElement(pred_instances=found), CLASSES, PALETTE, 0.5)
    assert tint(drawn, 350, 350) == 0 and tint(drawn, 150, 600) is None
    assert tint(draw_sample(IMAGE, BaseDataElement(pred_instances=found), CLASSES, PALETTE, 0.1), 150, 600) == 2
    nothing = draw_sample(IMAGE, BaseDataElement(pred_instances=found), CLASSES, PALETTE, 1.)
    assert np.array_equal(nothing, IMAGE)
    truth, masks = objects()
    truth.masks = BitmapMasks(masks.astype(np.uint8), 600, 800)
    drawn = draw_truth(IMAGE, BaseDataElement(gt_instances=truth), CLASSES, PALETTE)
    assert tint(drawn, 350, 350) == 0 and tint(drawn, 150, 600) == 2


@pytest.mark.parametrize('truth, color', [(None, 'white'), (1, 'blue'), (0, 'orange')])
def test_a_class_is_blue_if_it_is_right(truth, color):
    sample = BaseDataElement(pred_score=torch.tensor([0.1, 0.7, 0.2]))
    if truth is not None:
        sample.gt_label = torch.tensor([truth])
        assert draw_truth(IMAGE, sample, CLASSES, PALETTE).max() == 255
    line = draw_sample(IMAGE, sample, CLASSES, PALETTE)[:26].astype(int)
    orange, blue = (line[..., 0] - line[..., 2] > 60).any(), (line[..., 2] - line[..., 0] > 60).any()
    assert (orange, blue) == (color == 'orange', color == 'blue')


def test_small_images_are_enlarged_and_large_ones_are_not():
    assert enlarge(IMAGE[:32, :32]).shape == (512, 512, 3) and enlarge(IMAGE).shape == IMAGE.shape
    assert draw_sample(IMAGE[:60, :80], seg(LABELS[:60, :80].copy()), CLASSES, PALETTE).shape == (540, 720, 3)
    both = join_pictures({'ground truth': IMAGE, 'prediction': IMAGE})
    assert both.shape == (624, 1604, 3) and np.array_equal(join_pictures({'prediction': IMAGE}), IMAGE)


def test_palettes_are_those_of_the_data_or_random_ones():
    assert make_palette(dict(palette=[[1, 2, 3]] * 3), 3) == [(1, 2, 3)] * 3
    for palette in (None, 'random', [[1, 2, 3]]):
        assert len(set(make_palette(dict(palette=palette), 3))) == 3


def test_pictures_are_called_like_their_images():
    assert name_pictures(['/data/val/a.png', '/data/val/b.v2.jpg']) == {'/data/val/a.png': 'a', '/data/val/b.v2.jpg': 'b.v2'}
    twins = name_pictures(['/data/cats/1.png', '/data/dogs/1.png', '/data/dogs/2.png', '1.png'])
    assert list(twins.values()).count('2') == 1 and len(set(twins.values())) == 4
    assert twins['/data/cats/1.png'] == 'cats_1' and twins['1.png'] == '1'
    assert name_pictures(['x/a.png', 'x/a.jpg']) == {'x/a.jpg': 'x_a_jpg', 'x/a.png': 'x_a_png'}
    assert len(set(name_pictures([f'{top}/in/{name}.png' for top in 'ab' for name in '12']).values())) == 4


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.webp', '.bmp', '.tif'])
def test_formats(suffix):
    assert len(encode_picture(IMAGE, suffix)) > 40
