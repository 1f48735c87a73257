# Panoptic FPN for the ten digits and five surfaces of the synthetic scenes. The smallest surface that is kept has 256 pixels,
# the same part of an image as COCO's 4096, and digits count from a score of 0.3 instead of 0.6: after a few minutes of
# training few are surer.
_base_ = './mask-rcnn-mini.py'
model = dict(
    type='PanopticFPN',
    data_preprocessor=dict(mask_pad_value=0, pad_seg=True, seg_pad_value=255),
    semantic_head=dict(
        type='PanopticFPNHead',
        num_things_classes=10,
        num_stuff_classes=5,
        in_channels=48,
        inner_channels=32,
        start_level=0,
        end_level=4,
        norm_cfg=dict(type='GN', num_groups=8, requires_grad=True),
        conv_cfg=None,
        loss_seg=dict(type='CrossEntropyLoss', ignore_index=255, loss_weight=0.5)),
    panoptic_fusion_head=dict(type='HeuristicFusionHead', num_things_classes=10, num_stuff_classes=5),
    test_cfg=dict(
        rcnn=dict(
            score_thr=0.3, nms=dict(type='nms', iou_threshold=0.5, class_agnostic=True), max_per_img=20, mask_thr_binary=0.5),
        panoptic=dict(mask_overlap=0.5, stuff_area_limit=256)))
