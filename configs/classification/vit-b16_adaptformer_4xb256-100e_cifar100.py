# tools/dist_train.sh configs/classification/vit-b16_adaptformer_4xb256-100e_cifar100.py 4
# Not published as a file: the recipe of its AdaRoute cell is assumed.
_base_ = [
    '../_base_/models/vit-b16.py',
    '../_base_/datasets/cifar100_224.py',
    '../_base_/schedules/classification_100e.py',
    '../_base_/default_runtime_cls.py',
    '../_base_/adapters/adaptformer.py',
]
model = dict(
    data_preprocessor=dict(to_rgb=False),
    backbone=dict(adapter=dict(**_base_.adapter, hidden_dim=233)),
    head=dict(num_classes=100))
