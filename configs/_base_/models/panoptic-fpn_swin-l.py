# Panoptic FPN with Swin-L, ImageNet-22K weights at 224x224 (Microsoft's file).
_base_ = './panoptic-fpn.py'
model = dict(
    backbone=dict(
        type='mmparax.AdaptedSwin',
        arch='large',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.3,
        base_checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
        'swin_large_patch4_window7_224_22k.pth'),
    neck=dict(in_channels=[192, 384, 768, 1536]))
