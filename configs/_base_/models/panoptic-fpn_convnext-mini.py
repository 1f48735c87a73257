# Panoptic FPN with the small ConvNeXt that ships with mmparax, for the ten digits and five surfaces of the scenes.
_base_ = './panoptic-fpn_swin-mini.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmparax.AdaptedConvNeXt',
        arch=dict(depths=[2, 2, 4, 2], channels=[24, 48, 96, 192]),
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
        drop_path_rate=0.,
        base_checkpoint='mmparax://convnext_mini_glyphs.safetensors'))
