# tools/dist_train.sh configs/examples/segformer_mit-b2_adaroute_4xb4-160k_ade20k-512x512.py 4
# Another backbone than the paper's. Its recipe is not published: assumed to be that of ADE20K, at a rate between those
# of SegFormer's encoder (6e-5) and head (6e-4).
_base_ = [
    '../_base_/models/segformer_mit-b2.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.AdaRoute')))
optim_wrapper = dict(optimizer=dict(lr=3e-4))
