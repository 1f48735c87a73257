"""The recipes of the paper's tables, written from the method text and independently of the configs."""
import fnmatch
import json
import os
from pathlib import Path

import pytest
from config_files import CONFIGS, LEAVES, build, load, optimizer_of

from mmparax.analysis.parameters import count_parameters
from mmparax.hooks.structure import check_features

BACKBONES = ('swin-b', 'swin-l', 'convnext-b', 'convnext-l')
METHODS = ('adaroute', 'frozen', 'full')
DATA = {'cifar100': ('CIFAR100', 100), 'svhn': ('mmparax.SVHN', 10), 'food101': ('Food101', 101)}

# Published trained parameters of the backbone in millions, and the exact ones where the method text has them.
PUBLISHED = {
    ('swin-b', 'adaroute'): 5.2, ('swin-l', 'adaroute'): 7.3, ('convnext-b', 'adaroute'): 6.5, ('convnext-l', 'adaroute'): 9.2,
    ('vit-b16', 'adaroute'): 3.9, ('swin-b', 'full'): 86.8, ('swin-l', 'full'): 195.0, ('convnext-b', 'full'): 87.6,
    ('convnext-l', 'full'): 196.2, ('vit-b16', 'full'): 86.0,
}
EXACT = {('swin-b', 'adaroute'): 5_242_992, ('swin-l', 'adaroute'): 7_302_384, ('convnext-b', 'adaroute'): 6_456_000,
         ('convnext-l', 'adaroute'): 9_156_096}
# These cells cannot be met as published: the backbones have other numbers of parameters.
NOT_AS_PUBLISHED = {('swin-b', 'full'): 86.745, ('vit-b16', 'full'): 85.799}

DROP_PATH = {
    'upernet': dict(zip(BACKBONES, (0.15, 0.3, 0.25, 0.35))), 'mask-rcnn': dict(zip(BACKBONES, (0.15, 0.2, 0.2, 0.35))),
    'panoptic-fpn': dict(zip(BACKBONES, (0.3, 0.3, 0.2, 0.25))), 'cifar100': 0., 'svhn': 0., 'food101': 0.05,
}
WIDTHS = {'swin-b': [128, 256, 512, 1024], 'swin-l': [192, 384, 768, 1536], 'convnext-b': [128, 256, 512, 1024],
          'convnext-l': [192, 384, 768, 1536]}
BASES = {'swin-b': 'swin_base_patch4_window7_224_22k.pth', 'swin-l': 'swin_large_patch4_window7_224_22k.pth',
         'convnext-b': 'convnext_base_22k_224.pth', 'convnext-l': 'convnext_large_22k_224.pth',
         'vit-b16': 'mae_pretrain_vit_base.pth'}
FOLDERS = {'upernet': 'semantic_segmentation', 'mask-rcnn': 'instance_segmentation', 'panoptic-fpn': 'panoptic_segmentation'}
SUFFIXES = {'upernet': '4xb4-160k_ade20k-512x512', 'mask-rcnn': '4xb4-1x_coco', 'panoptic-fpn': '4xb4-1x_coco'}

DENSE = [(head, backbone, method) for head in FOLDERS for backbone in BACKBONES for method in METHODS]


def dense(head, backbone, method, variant=''):
    return load(f'{FOLDERS[head]}/{head}_{backbone}_{method}_{SUFFIXES[head]}{variant}.py')


def classification(method, data):
    return load(f'classification/vit-b16_{method}_4xb256-100e_{data}.py')


def check_count(model, backbone, method, exact=None):
    count = count_parameters(model)
    assert count.head.parameters > 0 and count.head_frozen.parameters == 0
    check_features(model)
    found = count.trained_in_backbone
    if method == 'frozen':
        assert found == 2 * sum(WIDTHS.get(backbone, []))  # the output norms; ViT has none
        return
    exact = exact or EXACT.get((backbone, method))
    if exact is not None:
        assert found == exact
    published = PUBLISHED[backbone, method]
    built = NOT_AS_PUBLISHED.get((backbone, method))
    if built is None:
        assert round(found / 1e6, 1) == published
    else:
        assert round(found / 1e6, 3) == built != published
    assert (count.backbone_frozen.parameters == 0) == (method == 'full')


def groups(cfg, model):
    """(lr, weight decay) of every parameter in the optimizer, by name; nothing else is in it, and nothing twice."""
    optimizer = optimizer_of(cfg, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(parameter)], group['lr'], group['weight_decay']) for group in optimizer.param_groups
             for parameter in group['params']]
    assert sorted(name for name, _, _ in found) == sorted(name for name, parameter in model.named_parameters()
                                                          if parameter.requires_grad)
    return {name: (lr, decay) for name, lr, decay in found}


def check_statistics(preprocessor):
    """Those of ImageNet, for images in RGB order."""
    assert list(preprocessor['mean']) == [123.675, 116.28, 103.53] and list(preprocessor.std) == [58.395, 57.12, 57.375]


def check_evaluator(cfg):
    """The evaluator reads the files of the data set that it scores."""
    dataset, evaluator = cfg.test_dataloader.dataset, cfg.test_evaluator
    assert os.path.join(dataset.data_root, dataset.ann_file) == evaluator.ann_file
    if 'seg' in dataset.data_prefix:
        assert os.path.join(dataset.data_root, dataset.data_prefix.seg) == evaluator.seg_prefix


def steps(loader):
    return {step.type: step for step in loader.dataset.pipeline}


@pytest.mark.parametrize('head, backbone, method', DENSE)
def test_dense_recipe(head, backbone, method):
    cfg = dense(head, backbone, method)
    model = build(cfg)
    special = (head, backbone, method) == ('mask-rcnn', 'swin-b', 'adaroute')
    check_count(model, backbone, method, 5_194_864 if special else None)
    assert cfg.model.backbone.drop_path_rate == DROP_PATH[head][backbone]
    assert cfg.model.backbone.base_checkpoint.endswith('/' + BASES[backbone])
    if method == 'adaroute':
        wanted = dict(type='mmparax.AdaRoute', **(dict(layer_scale_init=1e-5, shortcut_scale=False) if special else {}))
        assert cfg.model.backbone.adapter == wanted
    assert model.backbone.output_channels() == WIDTHS[backbone]
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.loss_scale) == ('AmpOptimWrapper', 'dynamic')
    assert cfg.train_dataloader.batch_size == 4 and cfg.auto_scale_lr.base_batch_size == 16 and not cfg.auto_scale_lr.enable
    check_statistics(cfg.model.data_preprocessor)
    assert cfg.model.data_preprocessor.bgr_to_rgb
    (check_ade20k if head == 'upernet' else check_coco)(cfg, model, head, backbone, method)


def check_ade20k(cfg, model, head, backbone, method):
    lr = 6e-5 if backbone == 'swin-b' or method == 'full' else 3e-4
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=0.01)
    assert set(groups(cfg, model).values()) == {(lr, 0.01)}
    warmup, decay = cfg.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.begin, warmup.end, warmup.by_epoch) == ('LinearLR', 1e-6, 0, 1500, False)
    assert (decay.type, decay.power, decay.eta_min, decay.begin, decay.end, decay.by_epoch) == (
        'PolyLR', 1.0, 0.0, 1500, 160000, False)
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (160000, 8000)
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU' and cfg.default_hooks.checkpoint.interval == 8000
    train, test = steps(cfg.train_dataloader), steps(cfg.test_dataloader)
    assert train['RandomCrop'].crop_size == (512, 512) and train['RandomCrop'].cat_max_ratio == 0.75
    assert train['RandomResize'].scale == (2048, 512) and train['RandomResize'].ratio_range == (0.5, 2.0)
    assert train['RandomFlip'].prob == 0.5 and 'PhotoMetricDistortion' in train
    assert test['Resize'].scale == (2048, 512) and test['Resize'].keep_ratio and test['ResizeToMultiple'].size_divisor == 32
    assert cfg.model.test_cfg.mode == 'whole' and cfg.test_evaluator.iou_metrics == ['mIoU']
    assert model.decode_head.in_channels == WIDTHS[backbone] and model.auxiliary_head.in_channels == WIDTHS[backbone][2]
    assert cfg.model.auxiliary_head.in_index == 2 and cfg.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert cfg.model.decode_head.norm_cfg.type == 'SyncBN' and model.decode_head.num_classes == 150


def check_coco(cfg, model, head, backbone, method):
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
    for name, (lr, decay) in groups(cfg, model).items():
        assert lr == 1e-4
        assert decay == (0. if name.startswith('backbone.') and 'norm' in name else 0.05), name
    warmup, drops = cfg.param_scheduler
    assert (warmup.type, warmup.start_factor, warmup.begin, warmup.end, warmup.by_epoch) == ('LinearLR', 1e-3, 0, 500, False)
    assert (drops.type, drops.milestones, drops.gamma, drops.by_epoch) == ('MultiStepLR', [8, 11], 0.1, True)
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval) == (12, 1)
    train, test = steps(cfg.train_dataloader), steps(cfg.test_dataloader)
    assert train['Resize'].scale == test['Resize'].scale == (1333, 800) and train['Resize'].keep_ratio
    assert train['RandomFlip'].prob == 0.5
    check_evaluator(cfg)
    assert cfg.model.data_preprocessor.pad_size_divisor == 32
    assert model.roi_head.bbox_head.num_classes == 80 and model.neck.in_channels == WIDTHS[backbone]
    if head == 'mask-rcnn':
        assert cfg.default_hooks.checkpoint.save_best == 'coco/bbox_mAP' and set(cfg.test_evaluator.metric) == {'bbox', 'segm'}
        return
    assert 'save_best' not in cfg.default_hooks.checkpoint and cfg.test_evaluator.type == 'CocoPanopticMetric'
    semantic = cfg.model.semantic_head
    assert cfg.model.data_preprocessor.seg_pad_value == semantic.loss_seg.ignore_index == 255
    assert semantic.norm_cfg.type == 'GN' and semantic.loss_seg.loss_weight == 0.5
    assert (model.semantic_head.num_things_classes, model.semantic_head.num_stuff_classes) == (80, 53)
    assert model.semantic_head.seg_rescale_factor == 1 / 4
    rcnn, panoptic = model.test_cfg.rcnn, model.test_cfg.panoptic
    assert (rcnn.score_thr, rcnn.max_per_img, rcnn.mask_thr_binary) == (0.6, 100, 0.5)
    assert (rcnn.nms.iou_threshold, rcnn.nms.class_agnostic) == (0.5, True)
    assert (panoptic.mask_overlap, panoptic.stuff_area_limit) == (0.5, 4096)


@pytest.mark.parametrize('backbone, count', [('convnext-b', 6_630_912), ('convnext-l', 9_403_200)])
def test_released_variants_have_the_wider_router(backbone, count):
    released, ours = dense('upernet', backbone, 'adaroute', '_released'), dense('upernet', backbone, 'adaroute')
    assert count_parameters(build(released)).trained_in_backbone == count
    assert released.model.backbone.pop('adapter') == dict(type='mmparax.AdaRoute', router_dim=24)
    assert released.model.backbone == {name: value for name, value in ours.model.backbone.items() if name != 'adapter'}
    for name in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader', 'test_dataloader'):
        assert released[name] == ours[name]


@pytest.mark.parametrize('data', DATA)
@pytest.mark.parametrize('method', METHODS)
def test_classification_recipe(method, data):
    cfg = classification(method, data)
    model = build(cfg)
    check_count(model, 'vit-b16', method)
    if method == 'adaroute':
        assert round(count_parameters(model).trained_in_backbone / 1e6, 3) == 3.869
        assert all(list(block.adapters) == ['after_token_mixer', 'after_channel_mixer'] for block in model.backbone.layers)
    kind, classes = DATA[data]
    assert cfg.model.backbone.base_checkpoint.endswith('/' + BASES['vit-b16'])
    assert cfg.model.backbone.drop_path_rate == DROP_PATH[data] and model.backbone.out_type == 'cls_token'
    assert cfg.optim_wrapper.type == 'OptimWrapper'  # trained in fp32, evaluated under autocast
    assert cfg.val_cfg.fp16 and cfg.test_cfg.fp16
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=0.1 * 1024 / 256, momentum=0.9, weight_decay=0.)
    assert set(groups(cfg, model).values()) == {(0.4, 0.)}
    assert cfg.train_dataloader.batch_size == 256 and cfg.auto_scale_lr.base_batch_size == 1024
    warmup, decay = cfg.param_scheduler
    assert (warmup.type, warmup.begin, warmup.end, decay.type, decay.begin, decay.end, decay.eta_min) == (
        'LinearLR', 0, 20, 'CosineAnnealingLR', 20, 100, 0.)
    assert cfg.train_cfg.max_epochs == 100
    train, test = steps(cfg.train_dataloader), steps(cfg.test_dataloader)
    assert (train['RandomResizedCrop'].scale, train['RandomResizedCrop'].interpolation) == (224, 'bicubic')
    assert train['RandomFlip'].prob == 0.5
    assert (test['ResizeEdge'].scale, test['CenterCrop'].crop_size) == (256, 224)
    assert model.neck.bn.eps == 1e-6 and not model.neck.bn.affine
    assert cfg.model.head.init_cfg == dict(type='TruncNormal', layer='Linear', std=0.01)
    assert warmup.start_factor == 1e-6 and warmup.convert_to_iter_based and decay.convert_to_iter_based
    assert test['ResizeEdge'].edge == 'short' and test['ResizeEdge'].interpolation == 'bicubic'
    check_statistics(cfg.model.data_preprocessor)
    assert model.head.num_classes == classes and cfg.train_dataloader.dataset.type == kind
    # Arrays of CIFAR and SVHN are RGB; files are read as BGR.
    assert cfg.model.data_preprocessor.to_rgb == (data == 'food101')


def test_no_cell_is_missing_or_left_over():
    expected = {f'{FOLDERS[head]}/{head}_{backbone}_{method}_{SUFFIXES[head]}' for head, backbone, method in DENSE}
    expected |= {f'classification/vit-b16_{method}_4xb256-100e_{data}' for method in METHODS for data in DATA}
    found = {str(path)[:-len('.py')] for path in LEAVES if path.parts[0] != 'examples'}
    assert found == expected | {name for name in found if fnmatch.fnmatch(name, '*convnext-?_adaroute_*_released')}


def test_the_readme_s_table_has_every_config_and_the_published_numbers():
    text = (CONFIGS.parent / 'README.md').read_text()
    published = json.loads((Path(__file__).parent / 'published.json').read_text())
    for path in LEAVES:
        assert f'configs/{path}' in text, path
    for name, cells in published.items():
        line = next(line for line in text.splitlines() if line.startswith('|') and f'/{name}' in line)
        for value in cells:
            assert f' {value} ' in line, (name, value)
