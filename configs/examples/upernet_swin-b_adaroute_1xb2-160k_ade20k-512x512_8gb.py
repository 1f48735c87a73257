# python tools/train.py configs/examples/upernet_swin-b_adaroute_1xb2-160k_ade20k-512x512_8gb.py
# The recipe of 4 GPUs x 4 images on one small GPU: 2 images x 8 accumulated steps, bf16, activations recomputed. Batch norm
# sees 2 images instead of 16.
_base_ = [
    '../_base_/models/upernet_swin-b.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_160k_accumulate8.py',
    '../_base_/default_runtime_seg.py',
]
model = dict(backbone=dict(adapter=dict(type='mmparax.AdaRoute'), with_cp=True))
train_dataloader = dict(batch_size=2)
