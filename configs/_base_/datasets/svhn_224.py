# SVHN without its extra images, enlarged to 224x224, in the pipelines of CIFAR-100; layout and download: docs/datasets.md.
# Its images are arrays in RGB order: the model needs data_preprocessor=dict(to_rgb=False).
_base_ = './cifar100_224.py'
dataset_type = 'mmparax.SVHN'
data_root = 'data/svhn'
train_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root))
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root))
test_dataloader = val_dataloader
