# python tools/train.py configs/examples/own-data_upernet_swin-b_adaroute_1xb8-8k_512x512.py
# A shipped config for one's own images and masks: data/mine/images/{training,validation}/*.jpg and data/mine/annotations/
# {training,validation}/*.png, the number of the class in each pixel, from 0, and 255 where it is not to be learnt.
# The schedule is not from the paper: 8000 iterations of 8 images on one GPU, for small data; its recipe has 160000 of 16.
_base_ = 'mmparax::semantic_segmentation/upernet_swin-b_adaroute_4xb4-160k_ade20k-512x512.py'
data = dict(type='BaseSegDataset', data_root='data/mine', metainfo=dict(
    classes=('background', 'leaf', 'stem'), palette=[[0, 0, 0], [60, 180, 75], [170, 110, 40]]))
model = dict(decode_head=dict(num_classes=3), auxiliary_head=dict(num_classes=3))
train_dataloader = dict(batch_size=8, dataset=data)
val_dataloader = test_dataloader = dict(dataset=data)
param_scheduler = [dict(_base_.param_scheduler[0], end=400), dict(_base_.param_scheduler[1], begin=400, end=8000)]
train_cfg, auto_scale_lr = dict(max_iters=8000, val_interval=800), dict(base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=800))
