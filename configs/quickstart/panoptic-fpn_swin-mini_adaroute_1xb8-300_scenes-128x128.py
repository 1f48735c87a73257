# python tools/train.py configs/quickstart/panoptic-fpn_swin-mini_adaroute_1xb8-300_scenes-128x128.py
_base_ = [
    '../_base_/models/panoptic-fpn_swin-mini.py',
    '../_base_/datasets/scenes_coco_panoptic_128x128.py',
    '../_base_/schedules/scenes_panoptic.py',
    '../_base_/default_runtime_det.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.AdaRoute', hidden_dim=16)))
