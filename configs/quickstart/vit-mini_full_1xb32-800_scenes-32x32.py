# python tools/train.py configs/quickstart/vit-mini_full_1xb32-800_scenes-32x32.py
_base_ = [
    '../_base_/models/vit-mini.py',
    '../_base_/datasets/scenes_crops_32x32.py',
    '../_base_/schedules/scenes_cls.py',
    '../_base_/default_runtime_cls.py',
]
model = dict(backbone=dict(adapter=None))
