# tools/dist_train.sh configs/ablations/ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco.py 4
# The default row of Tables 5-10: the entry of Table 2 with the scale on the shortcut, which the counts of Tables 5 and 7 need.
_base_ = [
    '../_base_/models/mask-rcnn_swin-b.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_1x_best-bbox.py',
    '../_base_/default_runtime_det.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.AdaRoute', layer_scale_init=1e-5)))
