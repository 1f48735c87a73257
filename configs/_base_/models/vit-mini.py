# The mini ViT that ships with mmparax (pre-trained on rendered letters and shapes), for crops of the 15 classes of the
# synthetic scenes.
_base_ = './classifier.py'
model = dict(
    data_preprocessor=dict(to_rgb=True),
    backbone=dict(
        type='mmparax.AdaptedViT',
        arch=dict(embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384),
        img_size=32,
        patch_size=4,
        out_type='cls_token',
        drop_path_rate=0.,
        base_checkpoint='mmparax://vit_mini_glyphs.safetensors'),
    neck=dict(input_features=96),
    head=dict(num_classes=15, in_channels=96))
