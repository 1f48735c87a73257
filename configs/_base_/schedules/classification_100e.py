# The recipe of the paper's Table 4: 100 epochs at batch 1024 in fp32, SGD at 0.1 for 256 images, 20 epochs of linear warm-up,
# then a half cosine to 0; the rate changes every iteration. Evaluated under autocast.
# Assumed, as the paper names neither: evaluation after every epoch, and the best checkpoint is kept.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmparax.OptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.4, momentum=0.9, weight_decay=0.))
param_scheduler = [
    # From 0 in the paper; mmengine multiplies step by step and would never leave it.
    dict(type='LinearLR', start_factor=1e-6, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=80, eta_min=0., by_epoch=True, begin=20, end=100, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=1)
val_cfg = dict(type='ValLoop', fp16=True)
test_cfg = dict(type='TestLoop', fp16=True)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmparax.CheckpointHook', by_epoch=True, interval=1, save_best='accuracy/top1', max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='VisualizationHook', enable=False))
log_processor = dict(by_epoch=True)
auto_scale_lr = dict(enable=False, base_batch_size=1024)
