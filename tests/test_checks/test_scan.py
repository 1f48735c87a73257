"""A scan reads everything once, goes on where it was interrupted, and shows what it found."""
import json

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image
from rich.console import Console

from helpers.mask_data import CLASSES, HEIGHT, LOADERS, WIDTH, configure, examine, write
from helpers.tasks import DATASETS, move_scenes
from mmparax.checks import reading
from mmparax.checks.scan_report import CACHE, count_errors, print_scan, scan_run, write_scan
from mmparax.datasets.synthetic.writers import write_scenes


@pytest.fixture
def count_reads(monkeypatch):
    """Names of the images that were read by this process."""
    names, original = [], reading.examine_image

    def examine(path, *arguments):
        names.append(path.rsplit('/', 1)[-1])
        return original(path, *arguments)

    monkeypatch.setattr(reading, 'examine_image', examine)
    return names


def scan(folder, amount='all', **options):
    cfg = configure(folder, **options)
    cfg.work_dir = str(folder / 'work')
    return scan_run(cfg, LOADERS, amount)


def test_what_was_read_is_not_read_again(tmp_path, count_reads):
    write(tmp_path, counts=(6, 3))
    first = scan(tmp_path)
    assert len(count_reads) == 9 and count_errors(first) == 0
    lines = (tmp_path / 'work' / CACHE).read_text().splitlines()
    assert len(lines) == 9
    count_reads.clear()
    assert [entry.to_json() for entry in scan(tmp_path)] == [entry.to_json() for entry in first] and not count_reads
    # A file that has changed is read again, and so is one whose mask has; other classes need no reading.
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8) + 9).save(tmp_path / 'masks/train/4.png')
    assert count_errors(scan(tmp_path)) == 1 and count_reads == ['4.jpg']
    count_reads.clear()
    assert count_errors(scan(tmp_path, classes=[*CLASSES, *'abcdefg'])) == 0 and not count_reads


def test_an_interrupted_scan_goes_on(tmp_path, monkeypatch, count_reads):
    write(tmp_path, counts=(6, 3))
    original = reading.examine_mask

    def stop(path, loader):
        if len(count_reads) == 5:
            raise KeyboardInterrupt
        return original(path, loader)

    monkeypatch.setattr(reading, 'examine_mask', stop)
    with pytest.raises(KeyboardInterrupt):
        scan(tmp_path)
    cache = tmp_path / 'work' / CACHE
    assert len(cache.read_text().splitlines()) == 4
    cache.write_bytes(cache.read_bytes()[:-30])  # a kill in the middle of a line
    monkeypatch.setattr(reading, 'examine_mask', original)
    count_reads.clear()
    found = scan(tmp_path)
    assert len(count_reads) == 6 and [entry.read for entry in found] == [6, 3] and count_errors(found) == 0
    count_reads.clear()
    scan(tmp_path)
    assert not count_reads


def test_several_processes_find_the_same(tmp_path, count_reads):
    write(tmp_path, counts=(reading.FEW + 2, 3))
    (tmp_path / 'images/train/7.jpg').write_bytes(b'')
    cfg = configure(tmp_path)
    found = scan_run(cfg, ['train_dataloader'], 'all', workers=2)
    assert not count_reads and found[0].read == reading.FEW + 2
    assert [problem.items for problem in found[0].problems.errors] == [[f'{tmp_path}/images/train/7.jpg: it is empty (0 bytes)']]


def test_tables_and_json(tmp_path):
    write(tmp_path, values=(0, 1, 2, 255))
    (tmp_path / 'masks/val/1.png').write_bytes(b'')
    found = scan(tmp_path)
    console = Console(record=True, width=120, file=open('/dev/null', 'w', encoding='utf-8'))
    print_scan(found, console)
    text = console.export_text()
    lines = [' '.join(line.replace('│', ' ').split()) for line in text.splitlines()]
    assert 'train 6 6 3 of 3 25.0 % 0 0' in lines and 'val 3 3 3 of 3 25.0 % 1 0' in lines
    stripe = HEIGHT * WIDTH // 4
    assert f'leaf {6 * stripe:,} {2 * stripe:,}' in lines
    assert 'problem val_dataloader.dataset' in lines and f'{tmp_path}/masks/val/1.png: it is empty (0 bytes)' in ''.join(lines)
    write_scan(found, tmp_path / 'scan.json', 'config.py')
    content = json.loads((tmp_path / 'scan.json').read_text())
    assert content['errors'] == 1 and content['config'] == 'config.py'
    train, val = content['datasets']
    assert (train['images'], train['read'], train['unit'], train['ignored']) == (6, 6, 'pixels', 6 * stripe)
    assert train['counts'] == dict.fromkeys(CLASSES, 6 * stripe)
    assert val['problems'][0]['kind'] == 'masks that cannot be read'


def test_a_data_set_that_is_not_there_is_a_problem_of_the_scan(tmp_path):
    cfg = configure(write(tmp_path))
    cfg.test_dataloader.dataset.data_root = str(tmp_path / 'absent')
    found = {entry.place: entry for entry in scan_run(cfg, LOADERS, 2)}
    assert count_errors(list(found.values())) == 1 and found['train_dataloader.dataset'].read == 2
    assert 'does not exist' in found['test_dataloader.dataset'].problems.errors[0].items[0]


@pytest.mark.parametrize('serialized', [True, False])
def test_objects_are_counted_their_images_decoded_and_an_empty_file_never_hangs(serialized, tmp_path):
    write_scenes(tmp_path / 'scenes', 3, 2, size=(64, 64), progress=False)
    cfg = move_scenes(Config.fromfile(DATASETS / 'scenes_coco_instance_128x128.py').to_dict(), tmp_path / 'scenes')
    cfg = Config(dict(cfg, default_scope='mmdet'))
    for loader in LOADERS:
        cfg[loader].dataset.serialize_data = serialized
    train, val = scan_run(cfg, LOADERS, 'all')
    path = tmp_path / 'scenes' / cfg.train_dataloader.dataset.ann_file
    content = json.loads(path.read_text())
    assert (train.unit, train.read, sum(train.counts.values())) == ('boxes', 3, len(
        content['annotations'])) and not train.problems
    image = tmp_path / 'scenes' / 'images' / 'validation' / content['images'][0]['file_name']
    image = next(image.parent.iterdir())
    image.write_bytes(image.read_bytes()[:-300])
    status, text = examine(cfg)
    assert status == 'problem' and '1 images that cannot be read: ' in text and image.name in text
    path.write_text(json.dumps({**content, 'annotations': []}))
    status, text = examine(cfg)
    assert status == 'problem' and 'without images' in text and 'filter_empty_gt' in text
