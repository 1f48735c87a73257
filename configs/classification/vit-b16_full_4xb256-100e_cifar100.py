# tools/dist_train.sh configs/classification/vit-b16_full_4xb256-100e_cifar100.py 4
# Not published as a file: AdaRoute's recipe for this backbone is assumed.
_base_ = [
    '../_base_/models/vit-b16.py',
    '../_base_/datasets/cifar100_224.py',
    '../_base_/schedules/classification_100e.py',
    '../_base_/default_runtime_cls.py',
]
model = dict(data_preprocessor=dict(to_rgb=False), backbone=dict(adapter=None), head=dict(num_classes=100))
