"""Images and masks that training could not run on, or would learn nothing from, are named before anything is built."""
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers.mask_data import CLASSES, HEIGHT, WIDTH, configure, examine, paint, scan, write
from mmparax.checks.images import Loader
from mmparax.checks.masks import Labels, MaskFacts, examine_mask, judge_masks


def save_mask(path, mask, **options):
    Image.fromarray(mask).save(path, **options)


def turn(path, orientation):
    image = Image.open(path)
    image.load()
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


def halve(path):
    Image.open(path).resize((WIDTH // 2, HEIGHT // 2), Image.NEAREST).save(path)


def cut(path, share=0.7):
    content = path.read_bytes()
    path.write_bytes(content[:int(share * len(content))])


def list_names(folder, suffix):
    (folder / 'train.txt').write_text('\n'.join(f'{number}{suffix}' for number in range(3)))


def rename(folder, old, new):
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace(old, new)))


def colour(folder, equal=False):
    for path in folder.iterdir():
        mask = np.asarray(Image.open(path))
        save_mask(path, np.stack([mask, mask, mask if equal else 2 * mask], -1))


def clear(folder):
    shutil.rmtree(folder)
    folder.mkdir()


# name -> (values in the masks, options of the data sets, what is done to the folder, status, parts of the sentence)
CASES = {
    'right': ((0, 1, 2), {}, None, 'ok', []),
    'right, with ignored pixels': ((0, 1, 2, 255), {}, None, 'ok', []),
    'right, 0 is what is left over': ((0, 1, 2, 3), dict(reduce_zero_label=True), None, 'ok', []),
    'right, a list': ((0, 1, 2), dict(ann_file='train.txt'), lambda folder: list_names(folder, ''), 'ok', []),
    '0 and 255': ((0, 255), dict(metainfo=dict(classes=CLASSES[:2])), None, 'problem',
                  ["only one class beside ignore (50 % ignored): 'soil' in 6 mask(s)", '--values 0 255']),
    '0 and 255, in validation only': (
        (0, 1, 2), {},
        lambda folder: [save_mask(path,
                                  paint(0, (0, 255))[1].astype(np.uint8)) for path in (folder / 'masks/val').iterdir()],
        'problem', ['val_dataloader.dataset: 1 data set with only one class beside ignore (50 % ignored)']),
    'one class': ((1, ), {}, None, 'problem', ["only one class beside ignore (0 % ignored): 'leaf' in 6"]),
    'zero reduced that is a class': ((0, 1, 2), dict(reduce_zero_label=True), None, 'problem', [
        'the value 0, which reduce_zero_label=True takes for ignored: 0 is in 33 % of the pixels',
        "3, which would be 'stem', in none", "use reduce_zero_label=False, or 'soil' is lost"
    ]),
    'numbered from 1': ((1, 2, 3), {}, None, 'problem', [
        '6 masks with values that are no class', '0.png: 3', 'found: 1 to 3. The classes seem to be numbered from 1: use '
        'reduce_zero_label=True'
    ]),
    'one block of another value': ((0, 1, 2), {}, lambda folder: save_mask(
        folder / 'masks/train/3.png', np.pad(np.full((2, 2), 7, np.uint8), ((0, HEIGHT - 2), (0, WIDTH - 2)))), 'problem',
                                   ['train_dataloader.dataset: 1 masks with values that are no class: ', '3.png: 7.', '0 to 2']),
    'a class too few': ((0, 1, 2, 3), {}, None, 'problem', ['0.png: 3', 'found: 0 to 3', '--ignore 3']),
    'background as 0, classes behind 255': ((0, 128, 255), {}, None, 'problem', ['0.png: 128', 'found: 0, 128, 255']),
    'colours': ((0, 1, 2), {}, lambda folder: colour(folder / 'masks/train'), 'problem',
                ['6 masks of several channels', '0.png: 3 channels, colours', '--colours']),
    'grey in three channels': ((0, 1, 2), {}, lambda folder: colour(folder / 'masks/val', True), 'problem',
                               ['val_dataloader.dataset: 3 masks of several channels', 'all the same', '--colours']),
    'wide values': ((0, 1, 2), {}, lambda folder: save_mask(folder / 'masks/train/2.png',
                                                            paint(0, (0, 1, 258))[1].astype(np.uint16)), 'problem',
                    ['do not fit in 8 bits', '2.png: 258 (read as 2)']),
    'all ignored': ((255, ), {}, None, 'problem', ['data set without a pixel of any class', '(100 % ignored)']),
    'one mask all ignored': ((0, 1, 2), {},
                             lambda folder: save_mask(folder / 'masks/train/2.png', np.full((HEIGHT, WIDTH), 255, np.uint8)),
                             'warning', ['1 masks that hold nothing but ignored pixels', '2.png']),
    'a class that is never there': ((0, 2), {}, None, 'warning', ["class(es) without a pixel: 'leaf'. They cannot be learnt."]),
    'another ending': ((0, 1, 2), {}, lambda folder: rename(folder / 'images/train', '.jpg', '.JPG'), 'problem',
                       ['0 images; in ', "6 files end in .JPG, and img_suffix='.jpg'"]),
    'another ending, in validation only': ((0, 1, 2), dict(serialize_data=False),
                                           lambda folder: rename(folder / 'images/val', '.jpg', '.JPG'), 'problem',
                                           ['val_dataloader.dataset: 0 images; in ', '3 files end in .JPG']),
    'another ending, some': ((0, 1, 2), {}, lambda folder: rename(folder / 'images/train', '3.jpg', '3.jpeg'), 'warning',
                             ["1 file(s) in ", "end in .jpeg, and img_suffix='.jpg'"]),
    'no images': ((0, 1, 2), {}, lambda folder: clear(folder / 'images/train'), 'problem', ["0 images; '", "train' is empty"]),
    'no masks': ((0, 1, 2), {}, lambda folder: clear(folder / 'masks/train'), 'problem',
                 ['6 mask files that do not exist', "0.png ('", "masks/train' is empty)"]),
    'a mask missing': ((0, 1, 2), {}, lambda folder: (folder / 'masks/train/4.png').unlink(), 'problem',
                       ['1 mask files that do not exist: ', '4.png', "ends in '.png'"]),
    'masks with an ending of their own': ((0, 1, 2), {}, lambda folder: rename(folder / 'masks/train', '.png', '_L.png'),
                                          'problem', ["0.png (there is '0_L.png')", 'seg_map_suffix']),
    'a list with suffixes': ((0, 1, 2), dict(ann_file='train.txt'), lambda folder: list_names(folder, '.jpg'), 'problem', [
        '3 image files that do not exist', "0.jpg.jpg (there is '0.jpg')", "train.txt' has names with '.jpg'"
    ]),
    'an empty list': ((0, 1, 2), dict(ann_file='train.txt'), lambda folder:
                      (folder / 'train.txt').touch(), 'problem', ["0 images; the list '", "train.txt' is empty"]),
    'no index': ((0, 1, 2), dict(indices=0), None, 'problem', ['0 images; indices=0 leaves none']),
    'an empty image': ((0, 1, 2), {}, lambda folder: (folder / 'images/train/1.jpg').write_bytes(b''), 'problem',
                       ['1 images that cannot be read: ', '1.jpg: it is empty (0 bytes)']),
    'a text as image': ((0, 1, 2), {}, lambda folder: (folder / 'images/train/1.jpg').write_text('<html>not found</html>'),
                        'problem', ['1.jpg: it is no image']),
    'a cut mask': ((0, 1, 2), {}, lambda folder: cut(folder / 'masks/train/1.png'), 'problem',
                   ['1 masks that cannot be read: ', '1.png: it ends too early (truncated)']),
    'a mask of half the size': ((0, 1, 2), {}, lambda folder: halve(folder / 'masks/val/1.png'), 'problem',
                                ['images and masks of different sizes', '1.jpg: 24x16, ', '1.png: 12x8']),
    'a turned image': ((0, 1, 2), {}, lambda folder: turn(folder / 'images/train/1.jpg', 6), 'problem',
                       ['1.jpg: 16x24, turned by its EXIF orientation 6, ', '1.png: 24x16', 'store the image upright']),
    'an image upside down': ((0, 1, 2), {}, lambda folder: turn(folder / 'images/train/1.jpg', 3), 'warning',
                             ['turned by their EXIF orientation', '1.jpg: 3']),
    'a list with an empty line': ((0, 1, 2), dict(ann_file='train.txt'), lambda folder:
                                  (folder / 'train.txt').write_text('0\n\n1\n'), 'problem', ["train.txt' has an empty line"]),
    'masks as JPEG': ((0, 1, 2), dict(seg_map_suffix='.jpg'), lambda folder: [
        Image.fromarray(np.random.default_rng(0).integers(0, 3,
                                                          (HEIGHT, WIDTH), dtype=np.uint8) * 40).save(path.with_suffix('.jpg'))
        for path in (folder / 'masks').rglob('*.png')
    ], 'problem', ['JPEG and WebP change values']),
    'an unknown option': ((0, 1, 2), dict(no_such=1), None, 'problem', ['cannot be built', 'no_such']),
}


@pytest.mark.parametrize('case', CASES)
def test_what_is_wrong_is_named_and_nothing_else(case, tmp_path):
    values, options, change, status, parts = CASES[case]
    write(tmp_path, values=values)
    if change is not None:
        change(tmp_path)
    found, text = examine(
        configure(tmp_path, **{**dict(classes=CLASSES), **options}) if 'metainfo' not in
        options else configure(tmp_path, options['metainfo']['classes']))
    assert found == status, text
    assert all(part in text for part in parts), text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize('read', [False, True])
def test_a_cut_image_is_an_error_if_the_loader_cannot_read_it(read, tmp_path, monkeypatch):
    """Some versions of OpenCV fill up what is missing, others read nothing."""
    monkeypatch.setattr(Loader, 'read', lambda self, path: np.zeros((HEIGHT, WIDTH, 3)) if read else raise_error())
    write(tmp_path)
    cut(tmp_path / 'images/train/1.jpg', 0.97)
    problems = scan(configure(tmp_path), ['train_dataloader'])['train_dataloader.dataset'].problems
    found = [problem for problem in problems if 'images' in problem.kind]
    assert [problem.warning for problem in found] == [read]
    assert found[0].items == [f"{tmp_path / 'images/train/1.jpg'}: it ends too early (truncated)"]


def raise_error():
    raise OSError('nothing')


def test_images_that_the_loader_may_leave_out_and_loaders_of_another_kind(tmp_path):
    cfg = configure(write(tmp_path))
    (tmp_path / 'images/train/1.jpg').write_bytes(b'')
    loader = cfg.train_dataloader.dataset.pipeline[0]
    loader['ignore_empty'] = True
    status, text = examine(cfg)
    assert status == 'warning' and '1 images that cannot be read and are left out: ' in text
    loader.pop('ignore_empty')
    loader['type'] = 'LoadBiomedicalImageFromFile'  # knows formats that are not judged here
    assert examine(cfg)[0] == 'ok'
    cut(tmp_path / 'masks/train/1.png')
    assert '1 masks that cannot be read' in examine(cfg)[1]


def test_a_turned_image_with_a_turned_mask_is_right(tmp_path):
    write(tmp_path)
    turn(tmp_path / 'images/train/1.jpg', 6)
    mask = tmp_path / 'masks/train/1.png'
    Image.open(mask).transpose(Image.ROTATE_270).save(mask)
    assert examine(configure(tmp_path))[0] == 'ok'
    cfg = configure(tmp_path)  # a loader that takes images as they are stored
    cfg.train_dataloader.dataset.pipeline[0].color_type = 'color_ignore_orientation'
    assert '1.jpg: 24x16, ' in examine(cfg)[1]


def test_ignored_values_are_those_of_the_heads_in_training_and_of_the_metric_in_validation(tmp_path):
    cfg = configure(write(tmp_path, values=(0, 1, 2, 11)))
    cfg.model = dict(decode_head=dict(num_classes=3, ignore_index=11), auxiliary_head=dict(num_classes=3, ignore_index=11))
    status, text = examine(cfg)
    assert status == 'problem' and 'val_dataloader.dataset: 3 masks' in text and 'train_dataloader' not in text
    cfg.val_evaluator.ignore_index = cfg.test_evaluator.ignore_index = 11
    assert examine(cfg)[0] == 'ok'
    cfg.model.auxiliary_head.ignore_index = 255
    assert 'train_dataloader.dataset: 6 masks with values that are no class' in examine(cfg)[1]


def test_label_maps_are_applied(tmp_path):
    """A part of a toolbox's classes: the loader renumbers the values."""
    from mmseg.datasets import CityscapesDataset
    names = CityscapesDataset.METAINFO['classes']
    cfg = configure(write(tmp_path, values=(0, 13, 18, 255)), names[13:14] + names[:1])
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.update(type='CityscapesDataset', img_suffix='.jpg', seg_map_suffix='.png')
    assert examine(cfg)[0] == 'ok'
    entry = scan(cfg)['train_dataloader.dataset']
    assert entry.counts['road'] == entry.counts['car'] > 0 and entry.ignored == 2 * entry.counts['car']
    write_again = tmp_path / 'masks/train/0.png'
    save_mask(write_again, np.full((HEIGHT, WIDTH), 40, np.uint8))
    assert '0.png: 40' in examine(cfg)[1]


def test_a_pipeline_without_masks_needs_none(tmp_path):
    cfg = configure(write(tmp_path))
    shutil.rmtree(tmp_path / 'masks' / 'val')
    (tmp_path / 'masks' / 'val').mkdir()
    for loader in ('val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    assert examine(cfg)[0] == 'ok'


def test_test_data_are_a_warning_to_the_doctor(tmp_path):
    cfg = configure(write(tmp_path))
    cfg.test_dataloader.dataset.img_suffix = '.tif'
    status, text = examine(cfg)
    assert status == 'warning' and 'training has its data, tools/test.py has not' in text and '3 files end in .jpg' in text


@pytest.mark.parametrize('wrapper', ['RepeatDataset', 'ConcatDataset', 'both'])
def test_data_sets_in_wrappers_are_built_one_by_one(wrapper, tmp_path):
    cfg = configure(write(tmp_path), serialize_data=False)
    inner = cfg.train_dataloader.dataset
    wrapped = dict(type='ConcatDataset', datasets=[inner, inner]) if wrapper != 'RepeatDataset' else inner
    wrapped = dict(type='RepeatDataset', times=3, dataset=wrapped) if wrapper != 'ConcatDataset' else wrapped
    cfg.train_dataloader.dataset = wrapped
    assert examine(cfg)[0] == 'ok'
    for path in (tmp_path / 'images/train').iterdir():
        path.unlink()
    status, text = examine(cfg)
    assert status == 'problem' and "0 images; '" in text and 'train_dataloader.dataset.dataset' in text


def test_a_wrapper_that_cannot_be_built_is_named(tmp_path):
    cfg = configure(write(tmp_path))
    cfg.train_dataloader.dataset = dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=cfg.train_dataloader.dataset)
    status, text = examine(cfg)
    assert status == 'problem' and 'train_dataloader.dataset (ClassBalancedDataset): NotImplementedError' in text


def test_a_sample_is_spread_evenly_and_every_file_is_looked_for(tmp_path):
    cfg = configure(write(tmp_path, counts=(60, 3)))
    entry = scan(cfg, sample=7)['train_dataloader.dataset']
    assert (entry.images, entry.read) == (60, 7) and not entry.problems
    (tmp_path / 'masks/train/31.png').unlink()
    (tmp_path / 'images/train/59.jpg').write_bytes(b'')
    kinds = {problem.kind: problem.items for problem in scan(cfg, sample=7)['train_dataloader.dataset'].problems}
    assert len(kinds) == 1 and '31.png' in kinds['mask files that do not exist'][0]


MASKS = {
    'bits': (np.array([[0, 1], [1, 0]], bool), {0: 2, 1: 2}),
    'palette': ('P', {0: 2, 3: 2}),
    '16 bits': (np.array([[0, 300], [1, 300]], np.uint16), {0: 1, 1: 1, 300: 2}),
    '32 bits': (np.array([[0, 70000], [1, 0]], np.int32), {0: 2, 1: 1, 70000: 1}),
}


@pytest.mark.parametrize('kind', MASKS)
def test_values_are_read_before_any_cast(kind, tmp_path):
    array, expected = MASKS[kind]
    if kind == 'palette':
        image = Image.fromarray(np.array([[0, 3], [3, 0]], np.uint8), 'P')
        image.putpalette([200, 10, 10] * 4)
    else:
        image = Image.fromarray(array)
    path = tmp_path / ('mask.tif' if kind == '32 bits' else 'mask.png')
    image.save(path)
    assert examine_mask(str(path), Loader('unchanged', 'pillow')).pixels == expected


def test_what_a_sample_does_not_show_is_not_said():
    masks = {'a.png': MaskFacts(2, 2, pixels={0: 2, 1: 2})}
    labels = Labels(['a', 'b', 'c'])
    assert not judge_masks(masks, labels, whole=False, training=True)
    labels = Labels([f'class {number}' for number in range(150)], reduce_zero_label=True)
    masks['b.png'] = MaskFacts(2, 2, pixels={2: 4})
    assert not judge_masks(masks, labels, whole=False, training=True).errors


def repaint(folder, common, last):
    """Give all masks the common values in stripes, and the last of them other ones."""
    paths = sorted(folder.iterdir(), key=lambda path: int(path.stem))
    for path in paths:
        save_mask(path, paint(0, last if path == paths[-2] else common)[1].astype(np.uint8))


# name -> (values of all masks but one, values of that one, options)
RARE = {
    'a last class that is rare, in data numbered from 1': ((0, 1, 2), (0, 1, 3), dict(reduce_zero_label=True)),
    'a defect that is rare': ((0, 255), (0, 1), {}),
    'labels that are rare': ((255, ), (0, 1), {}),
}


@pytest.mark.parametrize('part', ['train', 'val'])
@pytest.mark.parametrize('case', RARE)
def test_a_sample_without_a_rare_class_is_no_reason_to_refuse(case, part, tmp_path, monkeypatch):
    """Masks are read on until the class is found; only what all masks say is an error."""
    common, rare, options = RARE[case]
    values = (1, 2, 3) if options else (0, 1, 2)
    cfg = configure(write(tmp_path, counts=(30, 30), values=values), **options)
    repaint(tmp_path / 'masks' / part, common, rare)
    place = f'{part}_dataloader.dataset'
    found = scan(cfg, sample=4)[place]
    assert not found.problems.errors and 4 < found.read <= 30
    repaint(tmp_path / 'masks' / part, common, common)
    assert len(scan(cfg, sample=4)[place].problems.errors) == 1
    monkeypatch.setattr('mmparax.checks.scan.MOST_MASKS', 8)
    found = scan(cfg, sample=4)[place]
    assert found.read == 8 and not found.problems.errors
    remedy = found.problems.warnings[0].remedy if case != 'labels that are rare' else found.problems.warnings[-1].remedy
    assert 'Only a sample was read: tools/doctor.py CONFIG --scan all' in remedy


def test_a_class_that_loss_or_metric_ignores_is_said(tmp_path):
    cfg = configure(write(tmp_path))
    for evaluator in ('val_evaluator', 'test_evaluator'):
        cfg[evaluator] = [dict(type='IoUMetric'), dict(type='IoUMetric', ignore_index=0)]
    head = dict(type='FCNHead', num_classes=3)
    cfg.model = dict(decode_head=dict(head), auxiliary_head=[dict(head, ignore_index=2)])
    found = {place: [problem.summarize() for problem in entry.problems] for place, entry in scan(cfg).items()}
    (train, ), (val, ) = found['train_dataloader.dataset'], found['val_dataloader.dataset']
    assert "1 class(es) that a loss ignores: model.auxiliary_head.0.ignore_index=2 is 'stem'" in train
    assert "1 class(es) that a metric ignores: val_evaluator.1.ignore_index=0 is 'soil'" in val


def test_metrics_over_one_class_are_said(tmp_path):
    write(tmp_path, values=(0, 1))
    cfg = configure(tmp_path, classes=CLASSES[:2])
    cfg.val_evaluator = cfg.test_evaluator = dict(type='IoUMetric', ignore_index=0)
    problems = scan(cfg)['val_dataloader.dataset'].problems
    assert not problems.errors and any("'soil' would be another, and ignore_index leaves it out." in problem.remedy
                                       for problem in problems.warnings)
    write(tmp_path / 'single', values=(0, 255))
    problems = scan(configure(tmp_path / 'single', classes=CLASSES[:1]))['val_dataloader.dataset'].problems
    assert [problem.kind for problem in problems] == ['metric(s) over a single class']
