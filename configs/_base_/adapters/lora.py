# LoRA on the queries and values; the leaf gives the rank: 112 on Swin, 106 on ViT-B meet the paper's counts.
adapter = dict(type='mmparax.LoRA')
