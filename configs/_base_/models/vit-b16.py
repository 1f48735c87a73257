# ViT-B/16 with MAE's weights (Meta's file; a copy with q, k and v apart, as AdaptFormer's, can be loaded too).
_base_ = './classifier.py'
model = dict(
    backbone=dict(
        type='mmparax.AdaptedViT',
        arch='b',
        img_size=224,
        patch_size=16,
        out_type='cls_token',
        drop_path_rate=0.,
        base_checkpoint='https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth'),
    neck=dict(input_features=768),
    head=dict(in_channels=768))
