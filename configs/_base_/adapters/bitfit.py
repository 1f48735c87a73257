# BitFit: the biases of the trunk train. Not in the paper.
adapter = dict(type='mmparax.BitFit')
