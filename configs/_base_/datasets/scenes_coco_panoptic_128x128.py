# The synthetic scenes of tools/dataset_tools/make_scenes.py in COCO's panoptic layout: digits on textured surfaces.
data_root = 'data/scenes'
metainfo = dict(
    classes=('digit 0', 'digit 1', 'digit 2', 'digit 3', 'digit 4', 'digit 5', 'digit 6', 'digit 7', 'digit 8', 'digit 9', 'wood',
             'brick', 'grass', 'water', 'sand'),
    thing_classes=('digit 0', 'digit 1', 'digit 2', 'digit 3', 'digit 4', 'digit 5', 'digit 6', 'digit 7', 'digit 8', 'digit 9'),
    stuff_classes=('wood', 'brick', 'grass', 'water', 'sand'),
    palette=[[230, 25, 75], [255, 225, 25], [0, 130, 200], [245, 130, 48], [145, 30, 180], [70, 240, 240], [240, 50, 230],
             [170, 110, 255], [250, 190, 212], [255, 255, 255], [120, 72, 24], [128, 0, 0], [20, 110, 40], [0, 0, 128],
             [190, 175, 120]])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPanopticAnnotations'),
    # No flip: a mirrored digit is another sign.
    dict(type='RandomResize', scale=(128, 128), ratio_range=(0.8, 1.25), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(96, 96)),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    # After the resizing: predictions are scored at the original size.
    dict(type='LoadPanopticAnnotations'),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CocoPanopticDataset',
        data_root=data_root,
        ann_file='annotations/panoptic_training.json',
        data_prefix=dict(img='images/training', seg='annotations/panoptic_training'),
        metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoPanopticDataset',
        data_root=data_root,
        ann_file='annotations/panoptic_validation.json',
        data_prefix=dict(img='images/validation', seg='annotations/panoptic_validation'),
        metainfo=metainfo,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoPanopticMetric',
    ann_file=data_root + '/annotations/panoptic_validation.json',
    seg_prefix=data_root + '/annotations/panoptic_validation')
test_evaluator = val_evaluator
