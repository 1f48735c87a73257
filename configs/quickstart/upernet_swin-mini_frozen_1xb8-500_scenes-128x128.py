# python tools/train.py configs/quickstart/upernet_swin-mini_frozen_1xb8-500_scenes-128x128.py
_base_ = [
    '../_base_/models/upernet_swin-mini.py',
    '../_base_/datasets/scenes_seg_128x128.py',
    '../_base_/schedules/scenes_seg.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.Frozen')))
