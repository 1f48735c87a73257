# Panoptic FPN with the mini ConvNeXt that ships with mmparax (pre-trained on rendered letters and shapes).
_base_ = './panoptic-fpn-mini.py'
model = dict(
    backbone=dict(
        type='mmparax.AdaptedConvNeXt',
        arch=dict(depths=[2, 2, 4, 2], channels=[24, 48, 96, 192]),
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
        drop_path_rate=0.,
        base_checkpoint='mmparax://convnext_mini_glyphs.safetensors'),
    neck=dict(in_channels=[24, 48, 96, 192]))
