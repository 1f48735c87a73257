# Mask R-CNN with ConvNeXt-L, ImageNet-22K weights at 224x224 (Meta's file).
_base_ = './mask-rcnn.py'
model = dict(
    backbone=dict(
        type='mmparax.AdaptedConvNeXt',
        arch='large',
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
        drop_path_rate=0.35,
        base_checkpoint='https://dl.fbaipublicfiles.com/convnext/convnext_large_22k_224.pth'),
    neck=dict(in_channels=[192, 384, 768, 1536]))
