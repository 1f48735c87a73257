# A classifier with the head of MAE's linear probing: batch norm without affine parameters, then a linear layer, on the class
# token. A backbone's file adds the backbone and its width, a leaf the number of classes.
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    neck=dict(type='ClsBatchNormNeck', affine=False, eps=1e-6),
    head=dict(
        type='LinearClsHead',
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, ),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.01)))
