"""The user's own images and masks: checked, split, renumbered, and written in the layout that the configs read.

    images/{training,validation,test}/NAME.jpg           copies of the images, or links to them
    annotations/{training,validation,test}/NAME.png      class numbers from 0, and 255 for ignored pixels
    classes.json                                         names of the classes, their values in the masks, numbers of images
"""
from mmparax.datasets.masks.examination import VAL_RATIO, ImageMaskPair, MaskSet, examine
from mmparax.datasets.masks.files import SPLITS
from mmparax.datasets.masks.numbering import IGNORED, MAX_CLASSES
from mmparax.datasets.masks.writing import check_target, write_masks

__all__ = ['IGNORED', 'MAX_CLASSES', 'SPLITS', 'VAL_RATIO', 'ImageMaskPair', 'MaskSet', 'check_target', 'examine', 'write_masks']
