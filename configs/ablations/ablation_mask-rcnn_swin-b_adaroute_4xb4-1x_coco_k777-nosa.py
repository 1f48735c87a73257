# tools/dist_train.sh configs/ablations/ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco_k777-nosa.py 4
# Table 7: three kernels of size 7, without spatially-varying aggregation.
_base_ = './ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco.py'
model = dict(backbone=dict(adapter=dict(kernel_sizes=(7, 7, 7), spatial_aggregation=False)))
