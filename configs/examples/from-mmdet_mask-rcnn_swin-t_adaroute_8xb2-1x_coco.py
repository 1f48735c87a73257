# tools/dist_train.sh configs/examples/from-mmdet_mask-rcnn_swin-t_adaroute_8xb2-1x_coco.py 8
# mmdetection's Mask R-CNN on ResNet-50, turned into AdaRoute on Swin-T.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
model = dict(neck=dict(in_channels=[96, 192, 384, 768]), backbone=dict(
    _delete_=True, type='mmparax.AdaptedSwin', arch='tiny', out_indices=(0, 1, 2, 3), drop_path_rate=0.2,
    base_checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth',
    adapter=dict(type='mmparax.AdaRoute')))
optim_wrapper = dict(
    constructor='mmparax.OptimWrapperConstructor', optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05))
default_hooks = dict(checkpoint=dict(type='mmparax.CheckpointHook'))
custom_hooks = [dict(type='mmparax.PEFTHook')]
