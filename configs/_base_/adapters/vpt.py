# VPT-deep with the paper's ten prompts in every block.
adapter = dict(type='mmparax.VPT', num_prompts=10)
