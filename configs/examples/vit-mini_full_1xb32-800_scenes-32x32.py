# python tools/train.py configs/examples/vit-mini_full_1xb32-800_scenes-32x32.py
_base_ = [
    '../_base_/models/vit-mini.py',
    '../_base_/datasets/scenes_crops_32x32.py',
    '../_base_/schedules/scenes_cls.py',
    '../_base_/default_runtime_cls.py',
    '../_base_/adapters/full.py',
]
model = dict(backbone=dict(adapter=_base_.adapter))
