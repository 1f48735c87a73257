# Norm tuning: scales and biases of the trunk's norms train. Not in the paper.
adapter = dict(type='mmparax.NormTuning')
