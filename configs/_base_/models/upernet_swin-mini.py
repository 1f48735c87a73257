# UperNet with the small Swin that ships with mmparax (pre-trained on rendered letters and shapes), for 15 classes.
norm_cfg = dict(type='SyncBN', requires_grad=True)
class_weight = [4.] * 10 + [1.] * 5  # the ten digits cover a small part of the scenes
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(96, 96),
        pad_val=0,
        seg_pad_val=255),
    backbone=dict(
        type='mmparax.AdaptedSwin',
        arch=dict(embed_dims=24, depths=[2, 2, 4, 2], num_heads=[1, 2, 4, 8]),
        window_size=4,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.,
        base_checkpoint='mmparax://swin_mini_glyphs.safetensors'),
    decode_head=dict(
        type='UPerHead',
        in_channels=[24, 48, 96, 192],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3),
        channels=32,
        dropout_ratio=0.0,
        num_classes=15,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', class_weight=class_weight)),
    auxiliary_head=dict(
        type='FCNHead',
        in_channels=96,
        in_index=2,
        channels=32,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=15,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', class_weight=class_weight, loss_weight=0.4)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
