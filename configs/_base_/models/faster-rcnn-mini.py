# Faster R-CNN for the ten digits of the synthetic scenes: anchors from 16 pixels on, narrow heads, few proposals.
_base_ = './faster-rcnn.py'
model = dict(
    neck=dict(out_channels=48, num_outs=4),
    rpn_head=dict(
        in_channels=48,
        feat_channels=48,
        anchor_generator=dict(
            _delete_=True,
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=2,
            ratios=[1.0, 1.5, 2.0],
            strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=1), out_channels=48, featmap_strides=[4, 8], finest_scale=24),
        bbox_head=dict(in_channels=48, fc_out_channels=128, num_classes=10, reg_class_agnostic=True)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50), rcnn=dict(max_per_img=20)))
