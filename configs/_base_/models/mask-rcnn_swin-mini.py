# Mask R-CNN with the small Swin that ships with mmparax, for the ten digits of the scenes.
_base_ = './mask-rcnn_convnext-mini.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmparax.AdaptedSwin',
        arch=dict(embed_dims=24, depths=[2, 2, 4, 2], num_heads=[1, 2, 4, 8]),
        window_size=4,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.,
        base_checkpoint='mmparax://swin_mini_glyphs.safetensors'))
