"""Whether the annotations of a detection data set can be learned from."""
from collections.abc import Mapping
from typing import Any

from mmparax.checks.coco import check_coco
from mmparax.checks.panoptic import check_panoptic
from mmparax.checks.usage import get_method_name, read_usage
from mmparax.checks.voc import check_voc
from mmparax.utils.problems import ProblemList

COCO, PANOPTIC, VOC = 'coco', 'panoptic', 'voc'


def find_format(cfg: Mapping[str, Any], dataset: Mapping[str, Any]) -> str | None:
    """The format that the class of a data set reads: COCO, PANOPTIC, VOC or, if it is none of detection, None.

    Subclasses count as long as they read their files in the same way.
    """
    loads, parses = (get_method_name(cfg, dataset, method) for method in ('load_data_list', 'parse_data_info'))
    if loads == 'XMLDataset.load_data_list':
        return VOC
    if loads == 'CocoDataset.load_data_list':
        return {'CocoDataset.parse_data_info': COCO, 'CocoPanopticDataset.parse_data_info': PANOPTIC}.get(parses)
    return None


def check_detection_data(cfg: Mapping[str, Any], place: str, dataset: Mapping[str, Any], sample: int | None) -> ProblemList:
    """Check the annotations and images of one data set.

    Args:
        cfg: the whole config.
        place: where the data set is in it, such as ``'train_dataloader.dataset'``.
        dataset: its own config.
        sample: how many image files to look at; None means all. The annotations are always looked at in whole.

    Returns:
        What was found; nothing for a data set that is not of detection.
    """
    kind = find_format(cfg, dataset)
    if kind is None:
        return ProblemList()
    usage = read_usage(cfg, place, dataset)
    path = usage.paths.get('ann_file', '')
    if '://' in path:
        return ProblemList()
    if kind == VOC:
        return check_voc(path, dataset, usage, sample)
    return (check_coco if kind == COCO else check_panoptic)(path, usage, sample)
