# python tools/train.py configs/quickstart/mask-rcnn_convnext-mini_adaroute_1xb8-400_scenes-128x128.py
_base_ = [
    '../_base_/models/mask-rcnn_convnext-mini.py',
    '../_base_/datasets/scenes_coco_instance_128x128.py',
    '../_base_/schedules/scenes_det.py',
    '../_base_/default_runtime_det.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.AdaRoute', hidden_dim=16)))
