# tools/dist_train.sh configs/panoptic_segmentation/panoptic-fpn_convnext-b_adaptformer_4xb4-1x_coco.py 4
# Not published as a file: AdaRoute's recipe for this backbone is assumed.
_base_ = [
    '../_base_/models/panoptic-fpn_convnext-b.py',
    '../_base_/datasets/coco_panoptic.py',
    '../_base_/schedules/coco_1x.py',
    '../_base_/default_runtime_det.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.AdaptFormer', hidden_dim=176)))
