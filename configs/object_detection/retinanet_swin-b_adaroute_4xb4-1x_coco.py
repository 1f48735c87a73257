# tools/dist_train.sh configs/object_detection/retinanet_swin-b_adaroute_4xb4-1x_coco.py 4
# Not of the paper: the recipe is that of its instance segmentation.
_base_ = [
    '../_base_/models/retinanet_swin-b.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_1x_best-bbox.py',
    '../_base_/default_runtime_det.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.AdaRoute')))
