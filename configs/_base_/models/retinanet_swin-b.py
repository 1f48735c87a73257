# RetinaNet with Swin-B, ImageNet-22K weights at 224x224 (Microsoft's file).
_base_ = './retinanet.py'
model = dict(
    backbone=dict(
        type='mmparax.AdaptedSwin',
        arch='base',
        out_indices=(1, 2, 3),
        drop_path_rate=0.15,
        base_checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
        'swin_base_patch4_window7_224_22k.pth'),
    neck=dict(in_channels=[256, 512, 1024]))
