# tools/dist_train.sh configs/ablations/ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco_kaiming-normal.py 4
# Table 8: experts start from PyTorch's kaiming_normal.
_base_ = './ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco.py'
model = dict(backbone=dict(adapter=dict(expert_init='kaiming_normal')))
