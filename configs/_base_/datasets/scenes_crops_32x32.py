# Crops of the synthetic scenes of tools/dataset_tools/make_scenes.py: a folder for each class.
data_root = 'data/scenes'
# In alphabetical order: classes are numbered by the sorted names of their folders.
metainfo = dict(
    classes=('brick', 'digit 0', 'digit 1', 'digit 2', 'digit 3', 'digit 4', 'digit 5', 'digit 6', 'digit 7', 'digit 8',
             'digit 9', 'grass', 'sand', 'water', 'wood'))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    # No flip: a mirrored digit is another sign.
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.7, 1.0), interpolation='bicubic'),
    dict(type='ColorJitter', brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(32, 32), interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='crops/training', metainfo=metainfo, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CustomDataset', data_root=data_root, data_prefix='crops/validation', metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, ))
test_evaluator = val_evaluator
