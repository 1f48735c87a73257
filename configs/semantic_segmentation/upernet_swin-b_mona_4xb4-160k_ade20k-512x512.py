# tools/dist_train.sh configs/semantic_segmentation/upernet_swin-b_mona_4xb4-160k_ade20k-512x512.py 4
# Not published as a file: the recipe of its AdaRoute cell is assumed.
_base_ = [
    '../_base_/models/upernet_swin-b.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k.py',
    '../_base_/default_runtime_seg.py',
    '../_base_/adapters/mona.py',
]
model = dict(backbone=dict(adapter=dict(**_base_.adapter, hidden_dim=90)))
