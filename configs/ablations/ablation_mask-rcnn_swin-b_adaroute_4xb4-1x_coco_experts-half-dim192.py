# tools/dist_train.sh configs/ablations/ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco_experts-half-dim192.py 4
# Table 5: one expert for every two blocks.
_base_ = './ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco.py'
model = dict(backbone=dict(adapter=dict(experts_per_layer=0.5, hidden_dim=192)))
