# Food-101 at 224x224, in the pipelines of CIFAR-100; layout and download: docs/datasets.md.
# Its images are files, which are read in BGR order: the model needs data_preprocessor=dict(to_rgb=True).
_base_ = './cifar100_224.py'
dataset_type = 'Food101'
data_root = 'data/food-101'
train_pipeline = [dict(type='LoadImageFromFile'), *_base_.train_pipeline]
test_pipeline = [dict(type='LoadImageFromFile'), *_base_.test_pipeline]
train_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
