# tools/dist_train.sh configs/ablations/ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco_k579.py 4
# Table 7: kernels 5, 7, 9.
_base_ = './ablation_mask-rcnn_swin-b_adaroute_4xb4-1x_coco.py'
model = dict(backbone=dict(adapter=dict(kernel_sizes=(5, 7, 9))))
