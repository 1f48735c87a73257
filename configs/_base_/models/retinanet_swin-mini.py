# RetinaNet with the mini Swin that ships with mmparax (pre-trained on rendered letters and shapes).
_base_ = './retinanet-mini.py'
model = dict(
    backbone=dict(
        type='mmparax.AdaptedSwin',
        arch=dict(embed_dims=24, depths=[2, 2, 4, 2], num_heads=[1, 2, 4, 8]),
        window_size=4,
        out_indices=(1, 2, 3),
        drop_path_rate=0.,
        base_checkpoint='mmparax://swin_mini_glyphs.safetensors'),
    neck=dict(in_channels=[48, 96, 192]))
