# SegFormer with MiT-B2, ImageNet-1K weights at 224x224 (OpenMMLab's file).
_base_ = './segformer.py'
model = dict(
    backbone=dict(
        type='mmparax.AdaptedMiT',
        embed_dims=64,
        num_layers=[3, 4, 6, 3],
        num_heads=[1, 2, 5, 8],
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        base_checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/'
        'mit_b2_20220624-66e8bf70.pth'),
    decode_head=dict(in_channels=[64, 128, 320, 512]))
