# UperNet for the 15 classes of the synthetic scenes: narrow heads on images of 96 pixels.
_base_ = './upernet.py'
class_weight = [4.] * 10 + [1.] * 5  # the ten digits cover a small part of the scenes
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    decode_head=dict(
        pool_scales=(1, 2, 3),
        channels=32,
        dropout_ratio=0.0,
        num_classes=15,
        loss_decode=dict(_delete_=True, type='CrossEntropyLoss', class_weight=class_weight)),
    auxiliary_head=dict(
        channels=32,
        dropout_ratio=0.0,
        num_classes=15,
        loss_decode=dict(_delete_=True, type='CrossEntropyLoss', class_weight=class_weight, loss_weight=0.4)))
