"""A small model and run of each task over any backbone; the heads fit the outputs of the backbone."""
import os
from itertools import count
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from helpers.cases import BACKBONES, FEW_BLOCKS, METHODS

DATASETS = Path(__file__).parents[2] / 'configs' / '_base_' / 'datasets'
SIZE, CROP = 64, 96  # of the image on which outputs are measured, and of the crops of the scenes' configs
STATISTICS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
THINGS, STUFF = 10, 5  # digits and surfaces of the synthetic scenes
WIDTH = 16
BOXES = dict(type='DeltaXYWHBBoxCoder')
NMS = dict(type='nms', iou_threshold=0.5)


def backbone_config(task, backbone, method='adaroute', **options):
    """Make the config of a backbone of the table for a task."""
    cls, defaults, _ = BACKBONES[backbone]
    if backbone == 'vit' and task != 'segmentation':
        own = dict(out_type='cls_token', out_indices=(3, )) if task == 'classification' else dict(out_indices=(0, 1, 2, 3))
        options = {**own, **options}
    return dict(type=f'mmparax.{cls.__name__}', adapter=METHODS[method][0], **{**defaults, **FEW_BLOCKS[backbone], **options})


def measure_outputs(backbone):
    """Measure (channels, stride) of each output of a backbone; the stride of a vector is None."""
    built = MODELS.build({**backbone, 'base_checkpoint': None, 'allow_random_base': True}).eval()
    with torch.no_grad():
        maps = built(torch.zeros(1, 3, SIZE, SIZE))
    return [(output.shape[1], SIZE // output.shape[-1] if output.ndim == 4 else None) for output in maps]


def segmentation(backbone, classes=THINGS + STUFF):
    """UperNet."""
    channels = [width for width, _ in measure_outputs(backbone)]
    head = dict(channels=WIDTH, num_classes=classes, norm_cfg=dict(type='BN'), dropout_ratio=0., align_corners=False)
    return ConfigDict(
        type='EncoderDecoder', backbone=backbone, data_preprocessor=dict(type='SegDataPreProcessor', **STATISTICS,
                                                                         bgr_to_rgb=True, size=(CROP, CROP), seg_pad_val=255),
        decode_head=dict(type='UPerHead', in_channels=channels, in_index=list(range(len(channels))), pool_scales=(1, 2),
                         **head), auxiliary_head=dict(type='FCNHead', in_channels=channels[-1], in_index=-1, num_convs=1,
                                                      concat_input=False, **head), test_cfg=dict(mode='whole'))


def detection(backbone, classes=THINGS):
    """Mask R-CNN."""
    channels, strides = zip(*measure_outputs(backbone))
    neck = dict(type='FPN', in_channels=list(channels), out_channels=WIDTH, num_outs=len(channels) + 1)
    if strides[0] == strides[-1]:  # a plain ViT: its four maps become a pyramid
        strides = [strides[0] // 2, strides[0], 2 * strides[0], 4 * strides[0]]
        neck = [dict(type='mmseg.Feature2Pyramid', embed_dim=channels[0], rescales=[2, 1, 0.5, 0.25]), neck]

    def regions(size):
        return dict(type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0),
                    out_channels=WIDTH, featmap_strides=list(strides))

    def targets(threshold, count, **options):
        return dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=threshold, neg_iou_thr=min(threshold, 0.5), min_pos_iou=0.3,
                          match_low_quality=True, ignore_iof_thr=-1),
            sampler=dict(type='RandomSampler', num=count, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals='mask_size'
                         in options), pos_weight=-1, debug=False, **options)

    proposals = dict(nms_pre=100, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)
    return ConfigDict(
        type='MaskRCNN', backbone=backbone, data_preprocessor=dict(type='DetDataPreprocessor', **STATISTICS, bgr_to_rgb=True,
                                                                   pad_mask=True, pad_size_divisor=32), neck=neck,
        rpn_head=dict(
            type='RPNHead', in_channels=WIDTH, feat_channels=WIDTH, bbox_coder=BOXES,
            anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0], strides=[*strides,
                                                                                                       2 * strides[-1]])),
        roi_head=dict(
            type='StandardRoIHead', bbox_roi_extractor=regions(7), mask_roi_extractor=regions(14),
            bbox_head=dict(type='Shared2FCBBoxHead', in_channels=WIDTH, fc_out_channels=64, num_classes=classes,
                           bbox_coder={**BOXES, 'target_stds': [0.1, 0.1, 0.2, 0.2]}),
            mask_head=dict(type='FCNMaskHead', num_convs=1, in_channels=WIDTH, conv_out_channels=WIDTH,
                           num_classes=classes)), train_cfg=dict(rpn=targets(0.7, 64, allowed_border=-1), rpn_proposal=proposals,
                                                                 rcnn=targets(0.5, 64, mask_size=28)),
        test_cfg=dict(rpn=proposals, rcnn=dict(score_thr=0.05, nms=NMS, max_per_img=20, mask_thr_binary=0.5)))


def panoptic(backbone, things=THINGS, stuff=STUFF):
    """Panoptic FPN."""
    model, count = detection(backbone, things), dict(num_things_classes=things, num_stuff_classes=stuff)
    model['data_preprocessor'].update(mask_pad_value=0, pad_seg=True, seg_pad_value=255)
    model['test_cfg'].update(panoptic=dict(mask_overlap=0.5, stuff_area_limit=16))
    model.update(
        type='PanopticFPN', panoptic_fusion_head=dict(type='HeuristicFusionHead', **count),
        semantic_head=dict(type='PanopticFPNHead', in_channels=WIDTH, inner_channels=WIDTH, start_level=0,
                           end_level=len(model['roi_head']['bbox_roi_extractor']['featmap_strides']),
                           norm_cfg=dict(type='GN', num_groups=4), **count, loss_seg=dict(type='CrossEntropyLoss',
                                                                                          ignore_index=255, loss_weight=0.5)))
    return model


def classification(backbone, classes=THINGS + STUFF):
    """The last output, averaged if it is a map, and a linear layer."""
    width, stride = measure_outputs(backbone)[-1]
    return ConfigDict(
        type='ImageClassifier', backbone=backbone, data_preprocessor=dict(type='ClsDataPreprocessor', **STATISTICS, to_rgb=True),
        neck=None if stride is None else dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', in_channels=width, num_classes=classes, topk=(1, 5), loss=dict(type='CrossEntropyLoss')))


# task -> (model of a backbone, toolbox, its config of the synthetic scenes, how its visualizer and hook are called)
TASKS = {
    'segmentation': (segmentation, 'mmseg', 'scenes_seg_128x128', 'Seg'),
    'detection': (detection, 'mmdet', 'scenes_coco_instance_128x128', 'Det'),
    'panoptic': (panoptic, 'mmdet', 'scenes_coco_panoptic_128x128', 'Det'),
    'classification': (classification, 'mmpretrain', 'scenes_crops_32x32', ''),
}
number = count()


def move_scenes(value, root):
    """Copy a config, with the scenes in another folder."""
    if isinstance(value, dict):
        return {name: move_scenes(part, root) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(move_scenes(part, root) for part in value)
    return value.replace('data/scenes', str(root)) if isinstance(value, str) else value


def config(task, scenes, work_dir, backbone, iterations=4, **changes):
    """Make the config of a run of a task on synthetic scenes.

    Args:
        task: a key of ``TASKS``.
        scenes: their folder.
        work_dir: where the run goes.
        backbone: config of the backbone.
        iterations: of training; it ends with an evaluation.
        **changes: what goes into the config in the end.
    """
    make, scope, datasets, kind = TASKS[task]
    cfg = move_scenes(Config.fromfile(DATASETS / f'{datasets}.py').to_dict(), scenes)
    for name in ('train', 'val', 'test'):
        cfg[f'{name}_dataloader'].update(num_workers=0, persistent_workers=False, batch_size=2)
    cfg.update(
        default_scope=scope, work_dir=str(work_dir), experiment_name=f'{task}_{os.getpid()}_{next(number)}', model=make(backbone),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations,
                       val_interval=iterations), val_cfg={}, test_cfg={}, randomness=dict(seed=0), log_level='ERROR',
        optim_wrapper=dict(type='OptimWrapper', constructor='mmparax.OptimWrapperConstructor',
                           optimizer=dict(type='AdamW', lr=1e-3)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1), visualization=dict(type=f'{kind}VisualizationHook'),
                           checkpoint=dict(type='mmparax.CheckpointHook', by_epoch=False,
                                           interval=iterations)), custom_hooks=[dict(type='mmparax.PEFTHook')],
        visualizer=dict(type=f'{kind}LocalVisualizer' if kind else 'UniversalVisualizer', vis_backends=[]))
    cfg.update(changes)
    return Config(cfg)
