"""Synthetic scenes and their ground truth."""
import json

import numpy as np
import pytest

from mmparax.datasets.synthetic.scenes import (
    CLASSES,
    MIN_CROP,
    PALETTE,
    STUFF_CLASSES,
    THING_CLASSES,
    SceneGenerator,
    load_digits_once,
    mask_to_bbox,
    select_samples,
)

SIZE = (64, 96)


@pytest.fixture(scope='module')
def scenes():
    generator = SceneGenerator('train', seed=3)
    return [generator.generate(index) for index in range(40)]


def assert_same(first, second):
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.stuff, second.stuff)
    assert len(first.instances) == len(second.instances)
    for one, other in zip(first.instances, second.instances):
        assert (one.label, one.bbox, one.sample) == (other.label, other.bbox, other.sample)
        assert np.array_equal(one.mask, other.mask)


def test_names_and_palette_agree():
    assert CLASSES == THING_CLASSES + STUFF_CLASSES
    assert len(THING_CLASSES) == 10 and len(STUFF_CLASSES) == 5
    assert len(set(PALETTE)) == len(CLASSES) == len(set(CLASSES)) == 15


def test_scene_does_not_depend_on_the_order_of_calls():
    first, second = SceneGenerator('val', 7, SIZE), SceneGenerator('val', 7, SIZE)
    forward = [first.generate(index) for index in (0, 1, 2)]
    backward = [second.generate(index) for index in (2, 1, 0)]
    for one, other in zip(forward, reversed(backward)):
        assert_same(one, other)


def test_seed_split_and_index_change_the_scene():
    images = [
        SceneGenerator(split, seed, SIZE).generate(index).image
        for split, seed, index in (('train', 0, 0), ('train', 0, 1), ('train', 1, 0), ('val', 0, 0))
    ]
    for index, image in enumerate(images):
        assert not any(np.array_equal(image, other) for other in images[index + 1:])


def test_train_and_val_use_disjoint_samples_of_every_digit():
    digits = load_digits_once()
    seen = []
    for digit, (train, val) in enumerate(zip(select_samples('train'), select_samples('val'))):
        assert (digits.target[train] == digit).all() and (digits.target[val] == digit).all()
        assert 0.25 < len(val) / (len(train) + len(val)) < 0.30
        seen += [*train, *val]
    assert sorted(seen) == list(range(len(digits.target)))


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('seed', [0, 1])
def test_scenes_take_samples_of_their_split_only(split, seed):
    generator, pools = SceneGenerator(split, seed, (64, 64)), select_samples(split)
    for index in range(10):
        for instance in generator.generate(index).instances:
            assert instance.sample in pools[instance.label]


def test_contents_are_within_the_documented_ranges(scenes):
    for scene in scenes:
        assert scene.image.shape == (128, 128, 3) and scene.image.dtype == np.uint8
        assert scene.stuff.shape == (128, 128) and scene.stuff.dtype == np.uint8
        assert 2 <= len(np.unique(scene.stuff)) <= 4 and scene.stuff.max() < len(STUFF_CLASSES)
        assert 2 <= len(scene.instances) <= 6
        for instance in scene.instances:
            assert instance.mask.dtype == bool and instance.mask.sum() >= 50
            assert instance.bbox == mask_to_bbox(instance.mask)


def test_all_classes_occur(scenes):
    assert set(np.concatenate([np.unique(scene.build_semantic_map()) for scene in scenes])) == set(range(15))


def test_digits_differ_from_their_surroundings(scenes):
    for scene in scenes:
        surroundings = scene.image[scene.build_semantic_map() >= 10].astype(float).mean(0)
        colors = [scene.image[instance.mask].astype(float).mean(0) for instance in scene.instances]
        assert max(np.abs(color - surroundings).max() for color in colors) > 25


def test_semantic_map_holds_the_masks(scenes):
    for scene in scenes:
        semantic = scene.build_semantic_map()
        covered = np.zeros(semantic.shape, int)
        for instance in scene.instances:
            covered += instance.mask
            assert (semantic[instance.mask] == instance.label).all()
        assert covered.max() == 1
        assert semantic.dtype == np.uint8
        assert np.array_equal(semantic[covered == 0], scene.stuff[covered == 0] + 10)


def test_panoptic_map_agrees_with_masks_and_classes(scenes):
    for scene in scenes:
        ids, infos = scene.build_panoptic_map()
        semantic = scene.build_semantic_map()
        assert ids.dtype == np.int32 and ids.min() > 0
        assert sorted(info['id'] for info in infos) == np.unique(ids).tolist()
        for info in infos:
            mask = ids == info['id']
            x, y, width, height = info['bbox']
            assert info['area'] == mask.sum()
            assert (semantic[mask] == info['category_id']).all()
            assert (x, y, x + width, y + height) == mask_to_bbox(mask)
            assert info['isthing'] == int(info['category_id'] < 10)
        things = [info for info in infos if info['isthing']]
        assert [info['category_id'] for info in things] == [instance.label for instance in scene.instances]
        assert [info['area'] for info in things] == [instance.mask.sum() for instance in scene.instances]
        json.dumps(infos)  # plain Python numbers only


@pytest.mark.parametrize('size', [(128, 128), (64, 96), (150, 70)])
def test_crops_show_their_class(size):
    generator, found = SceneGenerator('train', 4, size), set()
    for index in range(12):
        scene = generator.generate(index)
        semantic, crops = scene.build_semantic_map(), scene.find_crops()
        assert [label for label, _ in crops[:len(scene.instances)]] == [instance.label for instance in scene.instances]
        for number, (label, (x1, y1, x2, y2)) in enumerate(crops):
            found.add(label)
            assert 0 <= x1 and 0 <= y1 and x2 <= size[1] and y2 <= size[0]  # inside the image
            assert x2 - x1 == y2 - y1 >= MIN_CROP
            if label >= len(THING_CLASSES):
                assert (semantic[y1:y2, x1:x2] == label).all()  # this surface and nothing else
                continue
            left, top, right, bottom = scene.instances[number].bbox
            assert x1 <= left and y1 <= top and right <= x2 and bottom <= y2  # the whole digit
            if min(x1, y1) > 0 and x2 < size[1] and y2 < size[0]:  # in the middle, unless the border is near
                assert abs((x1 + x2) - (left + right)) <= 1 and abs((y1 + y2) - (top + bottom)) <= 1
    assert len(found & set(range(10))) > 7 and len(found - set(range(10))) == 5


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="split='test'.*'train', 'val'"):
        SceneGenerator('test')
    with pytest.raises(ValueError, match='^index=-1'):
        SceneGenerator().generate(-1)
