"""Whether the annotation file of a detection data set can be trained on (written elsewhere; this stub is replaced)."""
from collections.abc import Mapping
from typing import Any

from mmparax.utils.problems import ProblemList


def check_detection_data(cfg: Mapping[str, Any], place: str, dataset: Mapping[str, Any], sample: int | None) -> ProblemList:
    """Check nothing yet."""
    return ProblemList()
