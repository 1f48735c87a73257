# Mona; the leaf gives the width: 90 on Swin, 144 on ConvNeXt, 92 on ViT-B meet the paper's counts.
adapter = dict(type='mmparax.Mona')
