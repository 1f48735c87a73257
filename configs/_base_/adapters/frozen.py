# No adapter: the trunk is frozen, its output norms and the head train.
adapter = dict(type='mmparax.Frozen')
