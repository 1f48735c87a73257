# tools/dist_train.sh configs/instance_segmentation/mask-rcnn_convnext-l_lorand_4xb4-1x_coco.py 4
# Not published as a file: AdaRoute's recipe for this backbone is assumed.
_base_ = [
    '../_base_/models/mask-rcnn_convnext-l.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_1x_best-bbox.py',
    '../_base_/default_runtime_det.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.LoRand', branches=4, rank=28)))
