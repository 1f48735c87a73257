# tools/dist_train.sh configs/object_detection/faster-rcnn_swin-b_adaroute_4xb4-1x_voc0712.py 4
# Not of the paper: the recipe is assumed to be that of COCO.
_base_ = [
    '../_base_/models/faster-rcnn_swin-b.py',
    '../_base_/datasets/voc0712_detection.py',
    '../_base_/schedules/voc_1x.py',
    '../_base_/default_runtime_det.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.AdaRoute')), roi_head=dict(bbox_head=dict(num_classes=20)))
