# AdaptFormer; the leaf gives the width: 224 on Swin, 176 on ConvNeXt, 233 on ViT-B meet the paper's counts.
adapter = dict(type='mmparax.AdaptFormer')
