"""Tests of the painted scenes, of the files written from them and of the glyphs for pre-training."""
import json

import numpy as np
import pytest
from PIL import Image

from mmparax.datasets.glyphs import GLYPH_CLASSES, GlyphGenerator
from mmparax.datasets.scenes import (CLASSES, PALETTE, STUFF_CLASSES, THING_CLASSES, SceneGenerator, load_digits_once,
                                     mask_to_bbox, split_samples, write_ade20k)

SIZE = (64, 96)
NUM_TRAIN, NUM_VAL, SEED = 3, 2, 5
FOLDERS = dict(train='training', val='validation')


@pytest.fixture(scope='module')
def scenes():
    generator = SceneGenerator('train', seed=3)
    return [generator.scene(index) for index in range(40)]


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp('data') / 'deeper' / 'scenes'
    assert write_ade20k(root, NUM_TRAIN, NUM_VAL, SEED, SIZE, progress=False)
    return root


def snapshot(root):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob('*')}


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
    forward = [first.scene(index) for index in (0, 1, 2)]
    backward = [second.scene(index) for index in (2, 1, 0)]
    for one, other in zip(forward, reversed(backward)):
        assert_same(one, other)


def test_seed_split_and_index_change_the_scene():
    images = [SceneGenerator(split, seed, SIZE).scene(index).image
              for split, seed, index in (('train', 0, 0), ('train', 0, 1), ('train', 1, 0), ('val', 0, 0))]
    for index, image in enumerate(images):
        assert not any(np.array_equal(image, other) for other in images[index + 1:])


def test_train_and_val_use_disjoint_samples_of_every_digit():
    digits = load_digits_once()
    seen = []
    for digit, (train, val) in enumerate(zip(split_samples('train'), split_samples('val'))):
        assert (digits.target[train] == digit).all() and (digits.target[val] == digit).all()
        assert 0.25 < len(val) / (len(train) + len(val)) < 0.30
        seen += [*train, *val]
    assert sorted(seen) == list(range(len(digits.target)))


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('seed', [0, 1])
def test_scenes_take_samples_of_their_split_only(split, seed):
    generator, pools = SceneGenerator(split, seed, (64, 64)), split_samples(split)
    for index in range(10):
        for instance in generator.scene(index).instances:
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
    assert set(np.concatenate([np.unique(scene.semantic()) for scene in scenes])) == set(range(15))


def test_digits_differ_from_their_surroundings(scenes):
    for scene in scenes:
        surroundings = scene.image[scene.semantic() >= 10].astype(float).mean(0)
        colors = [scene.image[instance.mask].astype(float).mean(0) for instance in scene.instances]
        assert max(np.abs(color - surroundings).max() for color in colors) > 25


def test_semantic_map_holds_the_masks(scenes):
    for scene in scenes:
        semantic = scene.semantic()
        covered = np.zeros(semantic.shape, int)
        for instance in scene.instances:
            covered += instance.mask
            assert (semantic[instance.mask] == instance.label).all()
        assert covered.max() == 1
        assert semantic.dtype == np.uint8
        assert np.array_equal(semantic[covered == 0], scene.stuff[covered == 0] + 10)


def test_panoptic_map_agrees_with_masks_and_classes(scenes):
    for scene in scenes:
        ids, infos = scene.panoptic()
        semantic = scene.semantic()
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


def test_layout_of_the_written_files(written):
    files = {path.relative_to(written).as_posix() for path in written.rglob('*') if path.is_file()}
    expected = {'classes.json'}
    for split, count in (('train', NUM_TRAIN), ('val', NUM_VAL)):
        for index in range(count):
            expected |= {f'images/{FOLDERS[split]}/scene_{index:05d}.jpg',
                         f'annotations/{FOLDERS[split]}/scene_{index:05d}.png'}
    assert files == expected
    meta = json.loads((written / 'classes.json').read_text())
    assert meta['classes'] == list(CLASSES) and [tuple(rgb) for rgb in meta['palette']] == list(PALETTE)
    assert meta['counts'] == dict(train=NUM_TRAIN, val=NUM_VAL)
    assert meta['seed'] == SEED and meta['size'] == list(SIZE) and 'version' in meta


@pytest.mark.parametrize('split', ['train', 'val'])
def test_written_files_hold_the_scene(written, split):
    scene = SceneGenerator(split, SEED, SIZE).scene(1)
    labels = Image.open(written / 'annotations' / FOLDERS[split] / 'scene_00001.png')
    assert labels.mode == 'L'
    assert np.array_equal(np.asarray(labels), scene.semantic() + 1)
    image = np.asarray(Image.open(written / 'images' / FOLDERS[split] / 'scene_00001.jpg'))
    assert image.shape == (*SIZE, 3)
    assert np.abs(image.astype(int) - scene.image).mean() < 10


@pytest.mark.parametrize('failure', [RuntimeError, KeyboardInterrupt])
def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch, failure):
    paint = SceneGenerator.scene

    def stop_at_two(self, index):
        if index == 2:
            raise failure('stopped')
        return paint(self, index)

    monkeypatch.setattr(SceneGenerator, 'scene', stop_at_two)
    with pytest.raises(failure):
        write_ade20k(tmp_path / 'scenes', 4, 1, 0, SIZE, progress=False)
    assert not list(tmp_path.iterdir())


def test_second_call_does_nothing(written, capsys):
    before = snapshot(written)
    assert not write_ade20k(written, NUM_TRAIN, NUM_VAL, SEED, SIZE, progress=False)
    assert 'already holds' in capsys.readouterr().out
    assert snapshot(written) == before


def test_other_parameters_are_refused(written):
    before = snapshot(written)
    with pytest.raises(ValueError, match='--force') as caught:
        write_ade20k(written, NUM_TRAIN + 1, NUM_VAL, SEED, SIZE, progress=False)
    assert str(written) in str(caught.value)
    assert snapshot(written) == before


def test_missing_files_are_noticed_and_force_repairs(tmp_path):
    root = tmp_path / 'scenes'
    write_ade20k(root, 2, 0, 0, SIZE, progress=False)
    image = root / 'images' / 'training' / 'scene_00001.jpg'
    image.unlink()
    with pytest.raises(ValueError, match='incomplete'):
        write_ade20k(root, 2, 0, 0, SIZE, progress=False)
    assert write_ade20k(root, 2, 0, 0, SIZE, progress=False, force=True)
    assert image.exists() and list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize('force', [False, True])
def test_foreign_folder_is_never_touched(tmp_path, force):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='choose another folder'):
        write_ade20k(tmp_path, 1, 0, 0, SIZE, progress=False, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


@pytest.mark.parametrize('name, arguments', [
    ('num_train', dict(num_train=0)), ('num_train', dict(num_train=2.5)), ('num_val', dict(num_val=-1)),
    ('seed', dict(seed=-1)), ('size', dict(size=(63, 128))), ('size', dict(size=(128, 63))), ('size', dict(size=128))])
def test_bad_arguments_of_the_writer_are_named(tmp_path, name, arguments):
    with pytest.raises(ValueError, match=f'^{name}='):
        write_ade20k(tmp_path / 'scenes', **{**dict(num_train=1, num_val=0, progress=False), **arguments})
    assert not list(tmp_path.iterdir())


def test_bad_arguments_of_the_generators_are_named():
    with pytest.raises(ValueError, match="split='test'.*'train', 'val'"):
        SceneGenerator('test')
    with pytest.raises(ValueError, match='^index=-1'):
        SceneGenerator().scene(-1)
    with pytest.raises(ValueError, match='^size=16'):
        GlyphGenerator(size=16)
    with pytest.raises(ValueError, match='^seed=-1'):
        GlyphGenerator(seed=-1)


def test_glyphs_do_not_depend_on_the_order_of_calls():
    first, second = GlyphGenerator(seed=2), GlyphGenerator(seed=2)
    forward = [first.sample(index) for index in range(6)]
    backward = [second.sample(index) for index in reversed(range(6))]
    for (image, label), (other, other_label) in zip(forward, reversed(backward)):
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        assert label == other_label and np.array_equal(image, other)
    assert not np.array_equal(forward[0][0], GlyphGenerator(seed=3).sample(0)[0])


def test_glyph_classes_hold_no_digit_and_all_occur():
    assert len(set(GLYPH_CLASSES)) == len(GLYPH_CLASSES) == 48
    assert not any(character.isdigit() for name in GLYPH_CLASSES for character in name)
    assert not set(GLYPH_CLASSES) & set(CLASSES)
    generator = GlyphGenerator(size=32)
    assert {generator.sample(index)[1] for index in range(500)} == set(range(len(GLYPH_CLASSES)))
