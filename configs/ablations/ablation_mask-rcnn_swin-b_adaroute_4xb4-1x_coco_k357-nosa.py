# tools/dist_train.sh configs/ablations/ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco_k357-nosa.py 4
# Table 7: kernels 3, 5, 7 without spatially-varying aggregation.
_base_ = './ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco.py'
model = dict(backbone=dict(adapter=dict(spatial_aggregation=False)))
