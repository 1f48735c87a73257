# The small ViT that ships with mmparax (pre-trained on rendered letters and shapes) with the head of MAE's linear probing,
# for crops of the 15 classes of the scenes.
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
    backbone=dict(
        type='mmparax.AdaptedViT',
        arch=dict(embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384),
        img_size=32,
        patch_size=4,
        out_type='cls_token',
        drop_path_rate=0.,
        base_checkpoint='mmparax://vit_mini_glyphs.safetensors'),
    neck=dict(type='ClsBatchNormNeck', input_features=96, affine=False, eps=1e-6),
    head=dict(
        type='LinearClsHead',
        num_classes=15,
        in_channels=96,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, ),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.01)))
