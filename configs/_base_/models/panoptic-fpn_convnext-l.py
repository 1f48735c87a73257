# Panoptic FPN with ConvNeXt-L, ImageNet-22K weights at 224x224 (Meta's file).
_base_ = './panoptic-fpn_convnext-b.py'
model = dict(
    backbone=dict(
        arch='large',
        drop_path_rate=0.25,
        base_checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_large_22k_224.pth'),
    neck=dict(in_channels=[192, 384, 768, 1536]))
