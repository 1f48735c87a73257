# RetinaNet for the ten digits of the synthetic scenes: anchors from 16 pixels on, a narrow head.
_base_ = './retinanet.py'
model = dict(
    neck=dict(out_channels=48, num_outs=4),
    bbox_head=dict(
        num_classes=10,
        in_channels=48,
        stacked_convs=2,
        feat_channels=48,
        anchor_generator=dict(octave_base_scale=2, ratios=[1.0, 1.5, 2.0], strides=[8, 16, 32, 64])),
    test_cfg=dict(nms_pre=200, max_per_img=20))
