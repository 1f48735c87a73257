# tools/dist_train.sh configs/instance_segmentation/mask-rcnn_swin-b_lora_4xb4-1x_coco.py 4
# Not published as a file: the recipe of its AdaRoute cell is assumed.
_base_ = [
    '../_base_/models/mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_1x_best-bbox.py',
    '../_base_/default_runtime_det.py',
    '../_base_/adapters/lora.py',
]
model = dict(backbone=dict(adapter=dict(**_base_.adapter, rank=112)))
