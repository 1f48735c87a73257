"""Training, tools/test.py, init_model, init_detector, the inferencers and a copy see the same base and the same adapters."""
import copy
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import mmparax
from helpers import runs
from helpers.cases import build
from mmparax.backbones.base_weights import BaseSource
from mmparax.datasets.synthetic.writers import write_scenes

SMALL_SWIN = runs.SHALLOW['swin']
CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('one_path')
    write_scenes(path / 'scenes', 4, 2, size=(64, 64), progress=False)
    torch.manual_seed(1)
    torch.save(build('frozen', **SMALL_SWIN).state_dict(), path / 'base.pth')
    return path


def config(folder, base, work_dir):
    """UperNet's example with another base, so that its base is a file of this test; two iterations."""
    cfg = Config.fromfile(next(CONFIGS.glob('quickstart/upernet_swin-mini_adaroute*')))
    cfg.model.backbone = dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4),
                              base_checkpoint=str(base), **{**SMALL_SWIN, 'out_indices': (0, 1, 2, 3)})
    cfg.model.decode_head.in_channels = [8, 16, 32, 64]
    cfg.model.auxiliary_head.in_channels = 32
    cfg.merge_from_dict({
        'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False, 'train_dataloader.batch_size': 2,
        'train_cfg.max_iters': 2, 'log_level': 'ERROR', 'work_dir': str(work_dir), 'experiment_name': str(work_dir)
    })
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[loader].dataset.data_root = str(folder / 'scenes')
        cfg[loader].update(num_workers=0, persistent_workers=False)
    cfg.vis_backends = cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    return cfg


@pytest.fixture(scope='module')
def trained(folder):
    """Files of a run by what they are, its model, what it says to an image."""
    cfg = config(folder, folder / 'base.pth', folder / 'run')
    init_default_scope('mmseg')
    runner = Runner.from_cfg(cfg)
    runner.train()
    files = dict(small=(folder / 'run' / 'last_checkpoint').read_text(), whole=folder / 'run' / 'whole.pth',
                 adapter=folder / 'run' / 'adapter.safetensors')
    content = torch.load(files['small'], weights_only=False)
    torch.save({**content, 'state_dict': runner.model.state_dict()}, files['whole'])
    mmparax.save_adapter(runner.model, files['adapter'], dataset_meta=content['meta']['dataset_meta'])
    return {name: str(path) for name, path in files.items()}, runner.model, says(runner.model)


def says(model):
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model.eval()(image, mode='tensor')


def by_runner(path, checkpoint):
    cfg = Config.fromfile(path)
    cfg.load_from = checkpoint
    cfg.experiment_name = f'{path}-test'
    init_default_scope('mmseg')
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()  # what Runner.test does first; init_weights is never called
    return runner.model


def by_init_model(path, checkpoint):
    from mmseg.apis import init_model
    return init_model(str(path), checkpoint, device='cpu')


def by_inferencer(path, checkpoint):
    from mmseg.apis import MMSegInferencer
    return MMSegInferencer(str(path), checkpoint, device='cpu').model


def by_copy(path, checkpoint):
    return copy.deepcopy(by_init_model(path, checkpoint))


def by_load_adapter(path, file):
    model = by_init_model(path, None)
    mmparax.load_adapter(model, file)
    return model


ROUTES = [by_runner, by_init_model, by_inferencer, by_copy]
CASES = [(route, 'small', 'at hand') for route in ROUTES] + [(route, 'whole', 'absent')
                                                             for route in ROUTES] + [(route, 'adapter', 'at hand')
                                                                                     for route in [*ROUTES, by_load_adapter]]


@pytest.mark.parametrize('route, file, base', CASES, ids=lambda part: getattr(part, '__name__', part))
def test_every_route_gives_the_trained_model(route, file, base, folder, trained, tmp_path):
    files, model, expected = trained
    path = tmp_path / 'config.py'
    config(folder, folder / 'base.pth' if base == 'at hand' else tmp_path / 'absent.pth', tmp_path / 'work').dump(path)
    warnings.simplefilter('ignore')
    other = route(path, files[file])
    assert torch.equal(says(other), expected)
    assert mmparax.fingerprint(other) == mmparax.fingerprint(model)
    assert other.backbone.base_source is (BaseSource.FILE if base == 'at hand' else BaseSource.CHECKPOINT)
    if route in (by_init_model, by_copy, by_load_adapter):  # the names and colours of the data set come with the file
        whole = torch.load(files['whole'], weights_only=False)['meta']['dataset_meta']
        assert list(other.dataset_meta['classes']) == list(whole['classes'])
        assert [list(color) for color in other.dataset_meta['palette']] == [list(color) for color in whole['palette']]


@pytest.mark.parametrize('route', ROUTES[:3], ids=lambda route: route.__name__)
def test_no_route_loads_a_base_file_as_a_checkpoint(route, folder, trained, tmp_path):
    path = tmp_path / 'config.py'
    config(folder, folder / 'base.pth', tmp_path / 'work').dump(path)
    with pytest.raises(ValueError, match='base_checkpoint'):
        route(path, str(folder / 'base.pth'))


def test_a_detector_by_every_route(folder, tmp_path):
    from mmdet.apis import DetInferencer, init_detector
    from mmdet.registry import MODELS
    anchors = dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[8, 16, 32, 64])
    model = dict(
        type='RetinaNet', data_preprocessor=dict(type='DetDataPreprocessor', mean=[0.] * 3, std=[1.] * 3, pad_size_divisor=32),
        backbone=dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute',
                                                               hidden_dim=4), base_checkpoint=str(folder / 'base.pth'),
                      **{**SMALL_SWIN, 'out_indices': (1, 2, 3)}), neck=dict(type='FPN', in_channels=[16, 32, 64], out_channels=8,
                                                                             num_outs=4, add_extra_convs='on_input'),
        bbox_head=dict(type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
                       anchor_generator=anchors, bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
        test_cfg=dict(nms_pre=10, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs', meta_keys=('img_path', 'ori_shape', 'img_shape'))]
    cfg = Config(
        dict(
            default_scope='mmdet', model=model, visualizer=dict(type='DetLocalVisualizer', vis_backends=[]), test_dataloader=dict(
                dataset=dict(type='CocoDataset', ann_file='absent.json', metainfo=dict(classes=('a', 'b')), pipeline=pipeline))))
    cfg.dump(tmp_path / 'config.py')
    init_default_scope('mmdet')
    source = MODELS.build(cfg.model)
    with torch.no_grad():
        for parameter in source.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.05)
    torch.save(dict(state_dict=source.state_dict(), meta=dict(dataset_meta=dict(classes=('a', 'b')))), tmp_path / 'det.pth')
    image = torch.rand(1, 3, 64, 64)
    expected = source.eval()(image, mode='tensor')
    routes = [
        lambda: init_detector(str(tmp_path / 'config.py'), str(tmp_path / 'det.pth'), device='cpu'),
        lambda: DetInferencer(str(tmp_path / 'config.py'), str(tmp_path / 'det.pth'), device='cpu').model
    ]
    routes.append(lambda: copy.deepcopy(routes[0]()))
    mmparax.save_adapter(source, tmp_path / 'det.safetensors', dataset_meta=dict(classes=('a', 'b')))
    for route in (init_detector, DetInferencer):
        routes.append(lambda route=route: getattr(
            found := route(str(tmp_path / 'config.py'), str(tmp_path / 'det.safetensors'), device='cpu'), 'model', found))
    warnings.simplefilter('ignore')
    for route in routes:
        found = route().eval()(image, mode='tensor')
        assert all(torch.equal(a, b) for left, right in zip(expected, found) for a, b in zip(left, right))


def test_a_classifier_by_its_inferencer(folder, tmp_path):
    from mmpretrain import ImageClassificationInferencer
    from mmpretrain.registry import MODELS
    model = dict(
        type='ImageClassifier', data_preprocessor=dict(mean=[0.] * 3, std=[1.] * 3), neck=dict(type='GlobalAveragePooling'),
        backbone=dict(type='mmparax.AdaptedSwin', adapter=dict(type='mmparax.AdaRoute', hidden_dim=4),
                      base_checkpoint=str(folder / 'base.pth'), **SMALL_SWIN), head=dict(type='LinearClsHead', in_channels=64,
                                                                                         num_classes=2))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    cfg = Config(dict(default_scope='mmpretrain', model=model, test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    cfg.dump(tmp_path / 'config.py')
    init_default_scope('mmpretrain')
    source = MODELS.build(cfg.model).eval()
    mmparax.save_adapter(source, tmp_path / 'cls.safetensors', dataset_meta=dict(classes=('a', 'b')))
    found = ImageClassificationInferencer(str(tmp_path / 'config.py'), str(tmp_path / 'cls.safetensors'), device='cpu')
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(found.model(image, mode='tensor'), source(image, mode='tensor'))
    assert found.model._dataset_meta['classes'] == ('a', 'b')


def test_a_base_that_is_downloaded_late_reaches_the_moving_average(tmp_path, monkeypatch):
    """Averages start before init_weights fetches the base: what is evaluated has it all the same."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    weights = build('frozen', **SMALL_SWIN).state_dict()
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda url, target, **_: torch.save(weights, target))
    for hook in (dict(type='mmparax.EMAHook', momentum=0.5), dict(type='EMAHook', momentum=0.5)):
        url = f'https://example.org/{hook["type"]}.pth'
        runner = runs.build(runs.config(tmp_path / hook['type'], hooks=[hook], iterations=3, base_checkpoint=url))
        assert runner.model.backbone.base_source is None
        seen = []

        def evaluate(data, model=runner.model, seen=seen, evaluate=runner.model.val_step):
            seen.append(mmparax.fingerprint(model))
            return evaluate(data)

        runner.model.val_step = evaluate
        runner.train()
        assert set(seen) == {mmparax.fingerprint(build('frozen', allow_random_base=False, base_checkpoint=url, **SMALL_SWIN))}
