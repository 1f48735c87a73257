"""What is right and what is wrong of a prediction, against cases made by hand; the sheets that show it."""
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from PIL import Image, ImageFont

from mmparax.inference.drawing import draw_sample
from mmparax.inference.labels import Labeller, _overlap
from mmparax.inference.sheets import Label, LegendEntry, draw_label_sheet, draw_sheet
from mmparax.inference.verdicts import (
    MISSED,
    RIGHT,
    WRONG,
    compute_ious,
    describe_verdicts,
    draw_verdict,
    judge_objects,
    split_segments,
)

IMAGE = np.full((60, 80, 3), 120, np.uint8)
CLASSES = ('cat', 'dog', 'sky')


def box(left, top, right, bottom):
    mask = np.zeros((60, 80), bool)
    mask[top:bottom, left:right] = True
    return mask


def judge(true, found, ignored=None):
    """Verdicts on (mask, class) pairs, as (kind, text)."""
    (true_masks, true_labels), (masks, labels) = ([np.array(part) for part in zip(*each)]
                                                  or [np.zeros((0, 60, 80), bool), np.zeros(0, int)] for each in (true, found))
    names = [[CLASSES[label] for label in part] for part in (true_labels, labels)]
    verdicts = judge_objects(true_masks, true_labels, masks, labels, *names, box(0, 0, 0, 0) if ignored is None else ignored)
    return [(verdict.kind, verdict.text) for verdict in verdicts], describe_verdicts(verdicts)


A, B = box(0, 0, 20, 20), box(40, 0, 60, 20)


@pytest.mark.parametrize('true, found, verdicts, words', [
    ([(A, 0), (B, 1)], [(A, 0), (B, 1)], [(RIGHT, 'cat'), (RIGHT, 'dog')], '2 of 2 right'),
    ([(A, 0), (B, 1)], [(A, 0)], [(RIGHT, 'cat'), (MISSED, 'dog')], '1 of 2 right, 1 missed'),
    ([(A, 0)], [(A, 1)], [(WRONG, 'dog, not cat')], '0 of 1 right, 1 confused'),
    ([(A, 0)], [(A, 0), (A, 0)], [(RIGHT, 'cat'), (WRONG, 'cat')], '1 of 1 right, 1 false'),
    ([(A, 0)], [(A, 1), (A, 0)], [(WRONG, 'dog'), (RIGHT, 'cat')], '1 of 1 right, 1 false'),
    ([(A, 0)], [(box(10, 0, 30, 20), 0)], [(WRONG, 'cat'), (MISSED, 'cat')], '0 of 1 right, 1 missed, 1 false'),
    ([(A, 0)], [(box(0, 0, 10, 20), 0)], [(RIGHT, 'cat')], '1 of 1 right'),
    ([], [(A, 0)], [(WRONG, 'cat')], '0 of 0 right, 1 false'),
    ([(A, 0)], [], [(MISSED, 'cat')], '0 of 1 right, 1 missed'),
    ([], [], [], '0 of 0 right'),
])
def test_objects_are_matched_once_by_class_and_overlap(true, found, verdicts, words):
    """An IoU of 1/3 is too little, one of 1/2 is enough; what another object has is not confused with it."""
    assert judge(true, found) == (verdicts, words)


def test_nothing_is_said_of_what_lies_where_nothing_is_known():
    assert judge([], [(A, 0), (B, 1)], box(0, 0, 20, 12)) == ([(WRONG, 'dog')], '0 of 0 right, 1 false')


def test_ious_are_those_of_the_definition():
    masks = np.random.RandomState(0).rand(7, 60, 80) > 0.7
    masks[3], masks[4] = box(5, 5, 9, 9), False
    first, second = masks[:4], masks[2:]
    expected = [[(a & b).sum() / max((a | b).sum(), 1) for b in second] for a in first]
    np.testing.assert_allclose(compute_ious(first, second), expected)


def test_segments_are_those_of_known_classes():
    segments = np.full((60, 80), 255)
    segments[A], segments[B], segments[40:] = 1001, 2001, 2
    masks, labels = split_segments(segments, 3)
    assert labels.tolist() == [2, 1, 1] and np.array_equal(masks[1], A) and np.array_equal(masks[2], B)


def hue(picture, y, x):
    """'blue', 'orange' or 'grey'."""
    red, _, blue = picture[y, x].astype(int)
    return 'blue' if blue - red > 30 else 'orange' if red - blue > 30 else 'grey'


def test_pixels_of_a_class_map():
    truth, predicted = np.zeros((60, 80), np.int64), np.zeros((60, 80), np.int64)
    truth[:, 40:], truth[50:], predicted[20:] = 1, 255, 1
    sample = BaseDataElement(pred_sem_seg=PixelData(data=torch.tensor(predicted)[None]),
                             gt_sem_seg=PixelData(data=torch.tensor(truth)[None]))
    picture, words = draw_verdict(IMAGE, sample, CLASSES, size=(60, 80))
    assert [hue(picture, y, x)
            for y, x in ((5, 5), (5, 70), (30, 5), (30, 70), (55, 5))] == ['blue', 'orange', 'orange', 'blue', 'grey']
    assert words == '50.0% of the pixels right' and picture.shape == (60, 80, 3)


@pytest.mark.parametrize('masks', [True, False])
def test_objects_of_a_detector(masks):
    found, true = np.stack([A, B]), np.stack([box(0, 0, 18, 20), box(0, 40, 20, 60)])

    def objects(those, **fields):
        boxes = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] for ys, xs in (np.nonzero(mask) for mask in those)]
        return InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32), labels=torch.tensor([0, 1]), **fields,
                            **(dict(masks=torch.tensor(those)) if masks else {}))

    sample = BaseDataElement(pred_instances=objects(found, scores=torch.tensor([0.9, 0.5])), gt_instances=objects(true))
    picture, words = draw_verdict(IMAGE, sample, CLASSES, size=(240, 320))
    assert words == '1 of 2 right, 1 missed, 1 false' and picture.shape == (240, 320, 3)
    assert hue(picture, 60, 60) == 'blue' and hue(picture, 60, 220) == 'orange' and hue(picture, 200, 220) == 'grey'
    assert draw_verdict(IMAGE, sample, CLASSES, 0.8)[1] == '1 of 2 right, 1 missed'
    assert draw_sample(IMAGE, sample, CLASSES, [(255, 0, 0)] * 3, size=(90, 120)).shape == (90, 120, 3)
    assert draw_verdict(IMAGE, BaseDataElement(pred_instances=sample.pred_instances), CLASSES) is None


def test_names_do_not_cover_each_other_and_stay_inside():
    labeller = Labeller((200, 120), ImageFont.load_default(14))
    for number in range(6):
        labeller.add_to_box((150 + number, 2, 199, 60), 'name: 0.5')
        labeller.add_at(5, 100, 'grass')
    places = [place for place, *_ in labeller.names]
    assert all(left >= 0 and top >= 0 and right <= 200 and bottom <= 120 for left, top, right, bottom in places)
    pairs = [(first, second) for index, first in enumerate(places[:6]) for second in places[:index]]
    assert not any(_overlap(*pair) for pair in pairs)


def test_sheets_are_opaque_and_no_wider_than_a_page(tmp_path):
    picture = np.full((320, 320, 3), 100, np.uint8)
    legend = [LegendEntry(f'a class with a long name {number}', (200, 0, 0), dashed=number == 1) for number in range(12)]
    draw_sheet(tmp_path / 'a.png', list('abcd'), [[picture] * 4] * 2, ['9 of 9 right, ' * 6] * 2, 'title', '', [legend])
    draw_label_sheet(tmp_path / 'b.png', [Label(IMAGE, 'cat', name, 0.5) for name in CLASSES], 'title', 'more')
    for name in ('a', 'b'):
        sheet = Image.open(tmp_path / f'{name}.png')
        assert sheet.mode == 'RGB' and 1000 < sheet.width <= 1400 and sheet.getpixel((0, 0)) == (255, 255, 255)
        edges = np.asarray(sheet)[:, [0, 1, -2, -1]]
        assert (edges == 255).all()  # nothing runs over the edge
