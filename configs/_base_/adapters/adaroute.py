# AdaRoute with its defaults, those of Tables 1-3: latent width 128, one expert per block, kernels 3, 5, 7.
adapter = dict(type='mmparax.AdaRoute')
