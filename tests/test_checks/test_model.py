"""What the backbone gives and the heads take, and for how many classes."""
import copy

import pytest
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from helpers.cases import BACKBONES, METHODS, build
from helpers.runs import build as build_runner
from helpers.runs import config as run_config
from helpers.tasks import TASKS
from mmparax.checks.model import check_class_counts, check_features, check_sync_norms

SWIN = dict(type='mmparax.AdaptedSwin', adapter=METHODS['frozen'][0], allow_random_base=True, **BACKBONES['swin'][1])
VECTORS = {
    'convnext': (dict(out_indices=(3, )), r"model.backbone.gap_before_final_norm=True is not allowed: \w+ needs feature maps.*"
                 r'Use model.backbone.gap_before_final_norm=False'),
    'vit': (dict(out_type='cls_token'), "model.backbone.out_type='cls_token' is not allowed: .* vectors or tokens.* "
            "Use model.backbone.out_type='featmap'"),
}


def models():
    """task -> its model over a Swin of four outputs."""
    built = {}
    for task, (make, scope, *_) in TASKS.items():
        init_default_scope(scope)
        options = dict(out_indices=(3, ), pad_small_map=True) if task == 'classification' else {}
        built[task] = MODELS.build(make({**SWIN, **options}))
    return built


@pytest.fixture(scope='module')
def built():
    return models()


@pytest.fixture
def model(built, request):
    return copy.deepcopy(built[request.param])


every_task = pytest.mark.parametrize('model', TASKS, indirect=True)
dense = pytest.mark.parametrize('model', ['segmentation', 'detection', 'panoptic'], indirect=True)


@every_task
def test_models_that_fit_pass(model):
    check_features(model)


@dense
@pytest.mark.parametrize('backbone', VECTORS)
def test_vectors_are_refused_by_dense_tasks(model, backbone):
    options, message = VECTORS[backbone]
    model.backbone = build('frozen', backbone, **options)
    with pytest.raises(ValueError, match=message):
        check_features(model)


def test_vectors_are_what_classifiers_take(built):
    model = copy.deepcopy(built['classification'])
    for backbone, (options, _) in VECTORS.items():
        model.backbone = build('frozen', backbone, **options)
        check_features(model)


@dense
@pytest.mark.parametrize(
    'options, given',
    [(dict(out_indices=(1, 2, 3)), r'3 map\(s\), of \[16, 32, 64\] channels'),
     (dict(arch=dict(embed_dims=16, depths=[1] * 4, num_heads=[1] * 4)), r'4 map\(s\), of \[16, 32, 64, 128\] channels')],
    ids=['fewer', 'wider'])
def test_other_maps_are_refused(model, options, given):
    model.backbone = build('frozen', 'swin', **options)
    with pytest.raises(
            ValueError, match=rf'model\.(neck\.in_channels|decode_head\.in_\w+)=.* is not allowed: the backbone '
            rf'gives {given} \(out_indices=\[.*\]\)\. .*\w'):
        check_features(model)


HEADS = {  # what a head asks of a Swin of 8, 16, 32 and 64 channels -> the error
    'last': (dict(in_channels=64, in_index=-1), None),
    'third': (dict(in_channels=32, in_index=2), None),
    'concatenated': (dict(in_channels=48, in_index=[1, 2], input_transform='resize_concat'), None),
    'other width': (dict(in_channels=32, in_index=3), 'auxiliary_head.in_channels=32.* With in_index=3 it must be 64'),
    'concatenated, other width': (dict(in_channels=64, in_index=[1, 2], input_transform='resize_concat'),
                                  'auxiliary_head.in_channels=64.*it must be 48'),
    'no such map': (dict(in_channels=32, in_index=4), 'auxiliary_head.in_index=4.*Change in_index'),
    'none that far back': (dict(in_channels=8, in_index=-5), 'auxiliary_head.in_index=-5'),
}


@pytest.mark.parametrize('case', HEADS)
def test_heads_that_choose_their_maps(case, built):
    model, (options, message) = copy.deepcopy(built['segmentation']), HEADS[case]
    for name, value in options.items():
        setattr(model.auxiliary_head, name, value)
    if message is None:
        check_features(model)
    else:
        with pytest.raises(ValueError, match=message):
            check_features(model)


THINGS, STUFF = tuple('0123456789'), ('wood', 'brick', 'grass', 'water', 'sand')
METAINFO = {
    'segmentation': dict(classes=THINGS + STUFF), 'detection': dict(classes=THINGS),
    'panoptic': dict(classes=THINGS + STUFF, thing_classes=THINGS,
                     stuff_classes=STUFF), 'classification': dict(classes=THINGS + STUFF)
}
COUNTED = [(task, name) for task, names in {
    'segmentation': ['decode_head.num_classes', 'auxiliary_head.num_classes'],
    'detection': ['roi_head.bbox_head.num_classes', 'roi_head.mask_head.num_classes'],
    'panoptic': [
        'roi_head.bbox_head.num_classes', 'semantic_head.num_stuff_classes', 'panoptic_fusion_head.num_things_classes',
        'panoptic_fusion_head.num_stuff_classes'
    ],
    'classification': ['head.num_classes'],
}.items() for name in names]


@every_task
def test_counts_that_fit_pass(model, request):
    metainfo = METAINFO[request.node.callspec.params['model']]
    check_class_counts(model, metainfo, 'train_dataloader.dataset')
    check_class_counts(model, {**metainfo, 'classes': None}, 'train_dataloader.dataset')  # then nothing is known


@pytest.mark.parametrize('model, name', COUNTED, indirect=['model'])
def test_other_counts_name_both(model, name, request):
    head, option = model.get_submodule(name.rpartition('.')[0]), name.rpartition('.')[2]
    right = getattr(head, option)
    setattr(head, option, 3)
    with pytest.raises(
            ValueError, match=rf'model\.{name}=3 is not allowed: val_dataloader.dataset has {right} such classes '
            r'\(\w+, \w+, \w+, \.\.\.\)\. Set it to'):
        check_class_counts(model, METAINFO[request.node.callspec.params['model']], 'val_dataloader.dataset')


def test_stuff_before_things_is_refused(built):
    metainfo = dict(classes=STUFF + THINGS, thing_classes=THINGS, stuff_classes=STUFF)
    with pytest.raises(ValueError, match='x.metainfo.classes must be thing_classes, then stuff_classes'):
        check_class_counts(built['panoptic'], metainfo, 'x')


@pytest.mark.parametrize('start, fault, message', [
    ('train', dict(in_channels=32), 'model.decode_head.in_channels=32 is not allowed'),
    ('val', dict(num_classes=4), 'model.decode_head.num_classes=4 is not allowed: val_dataloader.dataset has 3 such classes'),
    ('test', dict(num_classes=4), 'model.decode_head.num_classes=4 is not allowed: test_dataloader.dataset has 3 such classes'),
])
def test_every_kind_of_run_is_stopped_at_its_start(start, fault, message, tmp_path):
    cfg = run_config(tmp_path)
    cfg.model.decode_head.update(fault)
    cfg.update(test_dataloader=cfg.val_dataloader, test_cfg={}, test_evaluator=cfg.val_evaluator)
    runner = build_runner(cfg)
    with pytest.raises(ValueError, match=message):
        getattr(runner, start)()
    assert not list(tmp_path.glob('*.pth'))


def test_synchronised_norms_need_gpus():
    check_sync_norms(nn.Sequential(nn.BatchNorm2d(2)))
    with pytest.raises(ValueError, match="1 is a synchronised batch norm, which needs GPUs.*dict.type='BN'"):
        check_sync_norms(nn.Sequential(nn.Conv2d(1, 2, 1), nn.SyncBatchNorm(2)))
