# The same recipe for a small GPU: eight batches are accumulated for a step, so every count of iterations is eight times as
# high. bf16 needs no loss scale.
_base_ = './ade20k_160k.py'
optim_wrapper = dict(dtype='bfloat16', loss_scale=dict(_delete_=True, enabled=False), accumulative_counts=8)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=8 * 1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=8 * 1500, end=8 * 160000, by_epoch=False),
]
train_cfg = dict(max_iters=8 * 160000, val_interval=8 * 8000)
default_hooks = dict(checkpoint=dict(interval=8 * 8000))
