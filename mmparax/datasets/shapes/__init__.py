"""Polygons and other shapes of labelling tools (LabelMe, CVAT), as masks and as COCO's annotations."""
