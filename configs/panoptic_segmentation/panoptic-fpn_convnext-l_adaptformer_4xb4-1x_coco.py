# tools/dist_train.sh configs/panoptic_segmentation/panoptic-fpn_convnext-l_adaptformer_4xb4-1x_coco.py 4
# Not published as a file: the recipe of its AdaRoute cell is assumed.
_base_ = [
    '../_base_/models/panoptic-fpn_convnext-l.py',
    '../_base_/datasets/coco_panoptic.py',
    '../_base_/schedules/coco_1x.py',
    '../_base_/default_runtime_det.py',
    '../_base_/adapters/adaptformer.py',
]
model = dict(backbone=dict(adapter=dict(**_base_.adapter, hidden_dim=176)))
