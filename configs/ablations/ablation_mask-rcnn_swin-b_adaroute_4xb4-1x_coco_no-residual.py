# tools/dist_train.sh configs/ablations/ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco_no-residual.py 4
# Table 9: dynamic convolutions in sequence without residuals.
_base_ = './ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco.py'
model = dict(backbone=dict(adapter=dict(conv_layout='sequential_no_residual')))
