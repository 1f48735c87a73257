# tools/dist_train.sh configs/semantic_segmentation/upernet_swin-b_frozen_4xb4-160k_ade20k-512x512.py 4
# Not published as a file: AdaRoute's recipe for this backbone is assumed.
_base_ = [
    '../_base_/models/upernet_swin-b.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.Frozen')))
