# python tools/train.py configs/object_detection/retinanet_swin-mini_adaroute_1xb8-400_scenes-128x128.py
_base_ = [
    '../_base_/models/retinanet_swin-mini.py',
    '../_base_/datasets/scenes_coco_detection_128x128.py',
    '../_base_/schedules/scenes_det.py',
    '../_base_/default_runtime_det.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.AdaRoute', hidden_dim=16)))
