# COCO's recipe for Pascal VOC, assumed: 12 epochs of the images of 2007 and 2012. The checkpoint with the best mAP is kept, too.
_base_ = './coco_1x.py'
default_hooks = dict(checkpoint=dict(save_best='pascal_voc/mAP'))
