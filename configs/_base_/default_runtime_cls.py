default_scope = 'mmpretrain'
# The types resolve without it; with it, checkpoints are read safely as soon as a config has been read.
custom_imports = dict(imports=['mmparax'], allow_failed_imports=False)
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl'))
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends, name='visualizer')
log_level = 'INFO'
load_from = None
resume = False
custom_hooks = [dict(type='mmparax.PEFTHook')]
