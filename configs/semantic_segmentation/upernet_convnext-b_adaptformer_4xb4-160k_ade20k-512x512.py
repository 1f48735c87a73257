# tools/dist_train.sh configs/semantic_segmentation/upernet_convnext-b_adaptformer_4xb4-160k_ade20k-512x512.py 4
# Not published as a file: AdaRoute's recipe for this backbone is assumed.
_base_ = [
    '../_base_/models/upernet_convnext-b.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.AdaptFormer', hidden_dim=176)))
optim_wrapper = dict(optimizer=dict(lr=3e-4))
