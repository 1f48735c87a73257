# LoRand; the leaf gives branches and rank, which the paper chose anew for every backbone.
adapter = dict(type='mmparax.LoRand')
