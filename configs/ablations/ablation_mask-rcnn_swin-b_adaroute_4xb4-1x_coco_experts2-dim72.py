# tools/dist_train.sh configs/ablations/ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco_experts2-dim72.py 4
# Table 5: two experts per block.
_base_ = './ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco.py'
model = dict(backbone=dict(adapter=dict(experts_per_layer=2, hidden_dim=72)))
