# tools/dist_train.sh configs/instance_segmentation/mask-rcnn_convnext-b_mona_4xb4-1x_coco.py 4
# Not published as a file: the recipe of its AdaRoute cell is assumed.
_base_ = [
    '../_base_/models/mask-rcnn_convnext-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_1x_best-bbox.py',
    '../_base_/default_runtime_det.py',
    '../_base_/adapters/mona.py',
]
model = dict(backbone=dict(adapter=dict(**_base_.adapter, hidden_dim=144)))
