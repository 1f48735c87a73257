"""Heads of other kinds beside the classes of the data, their losses, necks and pixel decoders."""
import copy

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from helpers.cases import BACKBONES, METHODS
from helpers.tasks import TASKS
from mmparax.checks.losses import check_class_weights, check_losses, check_one_class
from mmparax.checks.model import check_class_counts, check_features
from mmparax.checks.random_batch import make_random_batch

SWIN = dict(type='mmparax.AdaptedSwin', adapter=METHODS['frozen'][0], allow_random_base=True, **BACKBONES['swin'][1])
VIT = dict(type='mmparax.AdaptedViT', adapter=METHODS['frozen'][0], allow_random_base=True, **BACKBONES['vit'][1])
CHANNELS = [8, 16, 32, 64]
NAMES = tuple('abcd')
PREPROCESSOR = dict(type='DetDataPreprocessor', pad_mask=True, pad_seg=True, pad_size_divisor=32)


def mask2former_head(**options):
    decoder = dict(
        layer_cfg=dict(self_attn_cfg=dict(embed_dims=16, num_heads=2, num_levels=3, num_points=2),
                       ffn_cfg=dict(embed_dims=16, feedforward_channels=16)), num_layers=1)
    attention = dict(embed_dims=16, num_heads=2)
    return dict(
        in_channels=CHANNELS, strides=[4, 8, 16,
                                       32], feat_channels=16, out_channels=16, num_queries=5, num_transformer_feat_level=3,
        pixel_decoder=dict(type='mmdet.MSDeformAttnPixelDecoder', num_outs=3, norm_cfg=dict(type='GN', num_groups=2),
                           encoder=decoder, positional_encoding=dict(num_feats=8, normalize=True)),
        positional_encoding=dict(num_feats=8, normalize=True), transformer_decoder=dict(
            return_intermediate=True, num_layers=2, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention,
                                                                   ffn_cfg=dict(embed_dims=16, feedforward_channels=16)),
            init_cfg=None), **options)


LOSSES = dict(loss_mask=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True),
              loss_dice=dict(type='mmdet.DiceLoss', use_sigmoid=True, activate=True, naive_dice=True, eps=1.))
TRAIN = dict(
    num_points=64, oversample_ratio=3., importance_sample_ratio=0.75, sampler=dict(type='mmdet.MaskPseudoSampler'), assigner=dict(
        type='mmdet.HungarianAssigner', match_costs=[
            dict(type='mmdet.ClassificationCost', weight=2.),
            dict(type='mmdet.CrossEntropyLossCost', weight=5., use_sigmoid=True)
        ]))


def class_loss(count):
    return dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False, class_weight=[1.] * count + [0.1])


def mask2former(things=4, stuff=0, weights=None):
    counts = dict(num_things_classes=things, num_stuff_classes=stuff)
    head = mask2former_head(type='Mask2FormerHead', **counts, **LOSSES, loss_cls=class_loss(weights or things + stuff))
    return dict(type='Mask2Former', backbone=SWIN, data_preprocessor=PREPROCESSOR, panoptic_head=head, train_cfg=TRAIN,
                panoptic_fusion_head=dict(type='MaskFormerFusionHead', **counts),
                test_cfg=dict(panoptic_on=False, instance_on=True, semantic_on=False, max_per_image=10))


def semantic_mask2former(classes=4, weights=None):
    head = mask2former_head(type='Mask2FormerHead', num_classes=classes, **LOSSES, loss_cls=class_loss(weights or classes),
                            train_cfg=TRAIN)
    return dict(type='EncoderDecoder', backbone=SWIN, data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
                decode_head=head, train_cfg={}, test_cfg=dict(mode='whole'))


def retinanet(classes=4, width=16, levels=5):
    return dict(
        type='RetinaNet', backbone={**SWIN, 'out_indices': (1, 2, 3)},
        data_preprocessor=dict(PREPROCESSOR, pad_seg=False, pad_mask=False),
        neck=dict(type='FPN', in_channels=CHANNELS[1:], out_channels=16, num_outs=5, add_extra_convs='on_input'), bbox_head=dict(
            type='RetinaHead', num_classes=classes, in_channels=width, stacked_convs=1, feat_channels=16,
            anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=1, ratios=[1.],
                                  strides=[8, 16, 32, 64, 128][:levels])),
        train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
                       sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1, debug=False), test_cfg={})


def build(config, scope='mmdet'):
    init_default_scope(scope)
    return MODELS.build(ConfigDict(copy.deepcopy(config)))


COUNTS = {  # model, toolbox, metainfo -> option that is named
    'mask2former, fewer': (mask2former(2), 'mmdet', {}, 'panoptic_head.num_things_classes=2'),
    'mask2former with stuff': (mask2former(4, 1), 'mmdet', {}, 'panoptic_head.num_stuff_classes=1'),
    'mask2former, panoptic': (mask2former(4, 2), 'mmdet', dict(thing_classes=NAMES[:3], stuff_classes=NAMES[3:]),
                              'panoptic_head.num_things_classes=4'),
    'mask2former, semantic': (semantic_mask2former(150), 'mmseg', {}, 'decode_head.num_classes=150'),
    'retinanet': (retinanet(80), 'mmdet', {}, 'bbox_head.num_classes=80'),
}
WEIGHTS = {
    'mask2former': (
        mask2former(4, weights=133), 'mmdet',
        r'panoptic_head.loss_cls.class_weight=\[1.0, .*\(134 entries\) .* this head needs 5 numbers, not 134: 4 classes and .no'),
    'semantic mask2former': (semantic_mask2former(4, 150), 'mmseg',
                             r'decode_head.loss_cls.class_weight=\[.* \(151 entries\) .* needs 5 numbers, not 151'),
}


@pytest.mark.parametrize('case', COUNTS)
def test_every_head_is_counted(case):
    config, scope, metainfo, option = COUNTS[case]
    with pytest.raises(ValueError, match=rf'model\.{option} is not allowed: x has \d such classes'):
        check_class_counts(build(config, scope), dict(classes=NAMES, **metainfo), 'x')


@pytest.mark.parametrize('config, scope', [(mask2former(), 'mmdet'), (semantic_mask2former(), 'mmseg'), (retinanet(), 'mmdet')],
                         ids=['mask2former', 'semantic mask2former', 'retinanet'])
def test_heads_that_fit_take_random_images(config, scope):
    model = build(config, scope)
    check_class_counts(model, dict(classes=NAMES), 'x')
    check_losses(model, Config())
    check_features(model)
    batch = make_random_batch(model, 2)
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    assert losses and all('loss' in name for name in losses)


@pytest.mark.parametrize('case', WEIGHTS)
def test_weights_of_classes_have_one_for_each(case):
    config, scope, message = WEIGHTS[case]
    with pytest.raises(ValueError, match=message):
        check_class_weights(build(config, scope))


@pytest.mark.parametrize('task, place, count, expected', [('segmentation', 'decode_head.loss_decode', 3, 15),
                                                          ('segmentation', 'auxiliary_head.loss_decode', 16, 15),
                                                          ('detection', 'roi_head.bbox_head.loss_cls', 10, 11),
                                                          ('classification', 'head.loss_module', 4, 15)])
def test_weights_of_each_toolbox(task, place, count, expected):
    make, scope, *_ = TASKS[task]
    model = build(make({**SWIN, **(dict(out_indices=(3, ), pad_small_map=True) if task == 'classification' else {})}), scope)
    check_class_weights(model)
    model.get_submodule(place).class_weight = [1.] * expected
    check_class_weights(model)
    model.get_submodule(place).class_weight = [1.] * count
    with pytest.raises(
            ValueError,
            match=rf'model.{place}.class_weight=\[1.0, .*is not allowed: this head needs {expected} numbers, not {count}: '):
        check_class_weights(model)


def test_one_class_is_enough_for_boxes_and_masks_of_queries():
    check_one_class(build(semantic_mask2former(1), 'mmseg'))
    model = build(TASKS['segmentation'][0](SWIN, 1), 'mmseg')
    with pytest.raises(ValueError, match='a segmentation needs two classes'):
        check_one_class(model)


FEATURES = {
    'pixel decoder': (lambda: {**mask2former(), 'backbone': {**SWIN, 'out_indices': (1, 2, 3)}},
                      r'model.panoptic_head.in_channels=\[8, 16, 32, 64\] is not allowed: the backbone gives 3 map'),
    'width of a head': (lambda: retinanet(width=256),
                        r'model.bbox_head.in_channels=256 is not allowed: neck gives 5 map\(s\), of \[16'),
    'levels of a head': (lambda: retinanet(levels=3), r'model.bbox_head.anchor_generator.strides=\[8, 16, 32\] is not allowed'),
    'scales': (lambda: {
        **retinanet(), 'backbone': {**VIT, 'out_indices': (0, 1)}, 'neck': dict(
            type='mmseg.Feature2Pyramid', embed_dim=16, rescales=[2, 1, 0.5, 0.25], norm_cfg=dict(type='BN'))
    }, r'model.neck.rescales=\[2, 1, 0.5, 0.25\] is not allowed: the backbone gives 2 map'),
    'width of a pyramid': (lambda: {
        **retinanet(), 'neck': [dict(type='mmseg.Feature2Pyramid', embed_dim=16, rescales=[2, 1, 0.5], norm_cfg=dict(type='BN'))]
    }, r'model.neck.0.embed_dim=16 is not allowed: .*leave it out for a pyramid'),
}


@pytest.mark.parametrize('case', FEATURES)
def test_parts_that_do_not_fit_are_named(case):
    config, message = FEATURES[case]
    with pytest.raises(ValueError, match=message):
        check_features(build(config()))


def test_a_neck_that_takes_more_than_maps_is_left_alone():

    class Neck(nn.Module):

        def forward(self, maps):
            return maps['res2']

    model = build(retinanet())
    model.neck = Neck()
    check_features(model)
