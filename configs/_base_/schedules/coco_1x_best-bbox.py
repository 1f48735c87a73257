# The same recipe; the checkpoint with the best box AP is kept, too.
_base_ = './coco_1x.py'
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
