# Panoptic FPN with ConvNeXt-B, ImageNet-22K weights at 224x224 (Meta's file).
_base_ = './panoptic-fpn.py'
model = dict(
    backbone=dict(
        type='mmparax.AdaptedConvNeXt',
        arch='base',
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
        drop_path_rate=0.2,
        base_checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_base_22k_224.pth'),
    neck=dict(in_channels=[128, 256, 512, 1024]))
