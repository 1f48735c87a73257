"""The configs in docs/own_data.md, on small folders in the layouts that it shows."""
import json
import re

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from PIL import Image

from helpers.config_files import CONFIGS, build
from mmparax.checks.data import check_datasets
from mmparax.checks.findings import summarize
from mmparax.checks.model import check_class_counts, check_features
from mmparax.datasets.mask_config import compose_config
from mmparax.datasets.masks import MaskSet
from mmparax.datasets.voc import read_voc, write_coco
from mmparax.doctor import Doctor
from mmparax.inference.metrics import select_class_metrics, select_paper_metrics
from mmparax.utils.locks import unlock_folder

PAGE = (CONFIGS.parent / 'docs' / 'own_data.md').read_text()
BLOCKS = {re.search(r'configs/(\w+).py', block).group(1): block for block in re.findall(r'```python\n(# .*?)```', PAGE, re.S)}
LONGER = re.search(r'```python\n(train_cfg = .*?)```', PAGE, re.S).group(1)
LOADERS = ['train_dataloader', 'val_dataloader', 'test_dataloader']


def written(name, more=''):
    with open(f'{name}.py', 'w', encoding='utf-8') as file:
        file.write(BLOCKS[name] + more)
    cfg = Config.fromfile(f'{name}.py')
    init_default_scope(cfg.default_scope)
    return cfg


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(path)


@pytest.fixture(autouse=True)
def scope_of_its_own():
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_page_has_a_config_of_each_kind_and_the_first_is_what_the_tool_writes():
    assert set(BLOCKS) == {'my_try', 'my_boxes', 'my_voc', 'my_swin_b', 'my_objects', 'my_classes'}
    found = MaskSet({}, ['wood', 'brick', 'grass', 'water', 'sand'], list(range(11, 16)), list(range(11)), '.jpg', 0)
    assert compose_config(found, 'data/mine', 'configs/my_try.py', 'swin-mini', 150) == BLOCKS['my_try']


def save_cells(root):
    """Three images and their boxes in VOC's layout, one image a list."""
    for name in ('train', 'val', 'test'):
        image(root / f'JPEGImages/{name}_1.jpg')
        objects = ''.join(f'<object><name>{cell}</name><bndbox><xmin>{left}</xmin><ymin>9</ymin><xmax>{left + 19}</xmax>'
                          '<ymax>48</ymax></bndbox></object>' for cell, left in (('WBC', 1), ('RBC', 21), ('Platelets', 41)))
        for path, text in ((f'Annotations/{name}_1.xml',
                            f'<annotation><size><width>64</width><height>64</height></size>{objects}</annotation>'),
                           (f'ImageSets/Main/{name}.txt', f'{name}_1\n')):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)


BOX_HEADERS = {'my_boxes': ['AP^b', 'AP^b_50', 'AP^b_75'], 'my_voc': ['mAP', 'AP50'], 'my_swin_b': None}


@pytest.mark.parametrize('name', BOX_HEADERS)
def test_boxes(name, here):
    """From VOC's layout, converted or as it is, to the table of results; Swin-B is built alone."""
    save_cells(here / 'data/cells')
    write_coco(read_voc('data/cells', progress=False), 'data/cells/coco')
    written('my_boxes')
    cfg = written(name)
    check_datasets(cfg, LOADERS)
    model = build(cfg)
    check_features(model)
    for loader in LOADERS:
        dataset = DATASETS.build(cfg[loader].dataset)
        check_class_counts(model, dataset.metainfo, loader)
        assert dataset.metainfo['classes'] == ('Platelets', 'RBC', 'WBC') and len(dataset) == 1
        assert sorted(dataset[0]['data_samples'].gt_instances.labels.tolist()) == [0, 1, 2]
    headers = BOX_HEADERS[name]
    if headers is None:
        return
    for loader in LOADERS:
        cfg[loader].update(num_workers=0, persistent_workers=False, batch_size=1)
    cfg.merge_from_dict({
        'train_cfg.max_iters': 1, 'train_cfg.val_interval': 2, 'model.test_cfg.rcnn.score_thr': 0., 'work_dir': name,
        'visualizer.vis_backends': [], 'log_level': 'ERROR', 'experiment_name': name
    })
    findings = Doctor(cfg, 1).examine()
    assert summarize(findings)[0], findings
    runner = Runner.from_cfg(cfg)
    runner.train()
    unlock_folder(name)
    metrics = runner.test()
    assert list(select_paper_metrics(metrics)) == headers
    assert list(select_class_metrics(metrics)[1]) == (['Platelets', 'RBC', 'WBC'] if name == 'my_boxes' else [])


def test_boxes_and_masks(here):
    for number, folder in enumerate(('training', 'validation')):
        image(here / f'data/fruit/images/{folder}/one.jpg')
        content = dict(
            images=[dict(id=1, file_name='one.jpg', height=64, width=64)],
            categories=[dict(id=7, name='apple'), dict(id=9, name='pear')], annotations=[
                dict(id=1, image_id=1, category_id=7 + 2 * number, iscrowd=0, area=400, bbox=[10, 10, 20, 20],
                     segmentation=[[10, 10, 30, 10, 30, 30, 10, 30]])
            ])
        (here / 'data/fruit/annotations').mkdir(exist_ok=True)
        (here / f'data/fruit/annotations/{folder}.json').write_text(json.dumps(content))
    cfg = written('my_objects', LONGER)
    check_datasets(cfg, LOADERS)
    model = build(cfg)
    check_features(model)
    for number, loader in enumerate(LOADERS):
        dataset = DATASETS.build(cfg[loader].dataset)
        check_class_counts(model, dataset.metainfo, loader)
        assert dataset.metainfo['classes'] == ('apple', 'pear')
        assert dataset[0]['data_samples'].gt_instances.labels.tolist() == [min(number, 1)]
    assert model.roi_head.bbox_head.num_classes == model.roi_head.mask_head.num_classes == 2
    METRICS.build(cfg.test_evaluator)
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == 36 and cfg.param_scheduler[1].milestones == [24, 33]
    assert cfg.param_scheduler[0].type == 'LinearLR' and cfg.param_scheduler[1].gamma == 0.1


def test_a_class_for_each_image(here):
    for folder in ('training', 'validation'):
        for name in ('birch', 'ash', 'oak'):
            image(here / f'data/leaves/{folder}/{name}/one.jpg')
    cfg = written('my_classes')
    check_datasets(cfg, LOADERS)
    model = build(cfg)
    for loader in LOADERS:
        dataset = DATASETS.build(cfg[loader].dataset)
        check_class_counts(model, dataset.metainfo, loader)
        assert dataset.metainfo['classes'] == ('ash', 'birch', 'oak') and len(dataset) == 3
        assert [sample['data_samples'].gt_label.item() for sample in dataset] == [0, 1, 2]
        assert dataset[0]['inputs'].shape == (3, 224, 224) and cfg[loader].batch_size == 32
    assert cfg.model.data_preprocessor.to_rgb
    METRICS.build(cfg.test_evaluator)
