"""Writes a picture of every prediction of a test."""
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmparax.inference.drawing import draw_sample, draw_truth, join_pictures, make_palette
from mmparax.inference.predictions import read_image
from mmparax.inference.verdicts import draw_verdict
from mmparax.utils.storage import write

VERDICT = 'blue: right, orange: wrong, dashed: missed'
REMEDY = 'Make room, or choose another folder.'


class PictureHook(Hook):
    """Writes ground truth, prediction, and what is right and wrong of every test image, side by side, into one folder.

    If the test loads no ground truth, it is the prediction alone.

    A picture is called like its image, ``NAME.png``. Of images that share a name, each picture is called like the folders that
    tell them apart, too: ``cats_001.png``. Images without a file have the number of their place in the data set.

    Args:
        folder: made if it does not exist.
        score_thr: leave out objects with a lower score.
    """
    priority = 'LOW'

    def __init__(self, folder: str | Path, score_thr: float = 0.3):
        self.folder, self.score_thr = Path(folder), score_thr
        self.count = 0

    def before_test(self, runner: Runner) -> None:
        dataset = runner.test_dataloader.dataset
        metainfo = getattr(dataset, 'metainfo', None) or {}
        self.classes = list(metainfo.get('classes') or [])
        self.palette = make_palette(metainfo, max(len(self.classes), 1))
        self.names = name_pictures(list_images(dataset))
        self.bgr = _gives_bgr(runner.cfg)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                        outputs: Sequence[Any] | None = None) -> None:
        for number, sample in enumerate(outputs or ()):
            path = sample.metainfo.get('img_path')
            image = read_image(str(path)) if path else self._take_image(data_batch['inputs'][number], sample)
            pictures = dict(prediction=draw_sample(image, sample, self.classes, self.palette, self.score_thr))
            truth = draw_truth(image, sample, self.classes, self.palette)
            if truth is not None:
                pictures = {'ground truth': truth, **pictures}
            verdict = draw_verdict(image, sample, self.classes, self.score_thr)
            if verdict is not None:
                pictures[VERDICT] = verdict[0]
            name = self.names.get(str(path)) if path else None
            write(self.folder / f'{name or self._number(sample)}.png', encode_picture(join_pictures(pictures)), REMEDY)
            self.count += 1

    def after_test(self, runner: Runner) -> None:
        runner.logger.info('%d pictures in %s.', self.count, self.folder)

    def _number(self, sample: Any) -> str:
        return f'{int(sample.metainfo.get("sample_idx", self.count)):06d}'

    def _take_image(self, inputs: Any, sample: Any) -> np.ndarray:
        """The image (H, W, 3) uint8 RGB of a data set without files, as the pipeline gives it."""
        image = inputs.permute(1, 2, 0).cpu().numpy().astype(np.uint8)
        height, width = sample.metainfo.get('ori_shape', image.shape[:2])[:2]
        image = image[..., ::-1] if self.bgr else image
        return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA)


def _gives_bgr(cfg: Mapping[str, Any]) -> bool:
    preprocessor = cfg.get('data_preprocessor') or (cfg.get('model') or {}).get('data_preprocessor') or {}
    return bool(preprocessor.get('to_rgb') or preprocessor.get('bgr_to_rgb'))


def list_images(dataset: Any) -> list[str]:
    """The files of a data set's images, as far as it says."""
    if not hasattr(dataset, 'get_data_info'):
        return []
    found = (dataset.get_data_info(index).get('img_path') for index in range(len(dataset)))
    return [str(path) for path in found if path]


def name_pictures(paths: Iterable[str]) -> dict[str, str]:
    """A name for the picture of each file: its own without suffix, with as many folders before it as tell equal names apart.

    Args:
        paths: of the images.

    Returns:
        Path -> name.
    """
    parts = {path: PurePath(path).relative_to(PurePath(path).anchor).with_suffix('').parts for path in sorted(set(paths))}
    names = {path: own[-1] for path, own in parts.items()}
    for depth in range(2, max(map(len, parts.values()), default=0) + 1):
        counts = Counter(names.values())
        names.update({path: '_'.join(own[-depth:]) for path, own in parts.items() if counts[names[path]] > 1})
    counts = Counter(names.values())  # one folder may hold a.png and a.jpg
    return {path: name + PurePath(path).suffix.replace('.', '_') * (counts[name] > 1) for path, name in names.items()}


def encode_picture(picture: np.ndarray, suffix: str = '.png') -> bytes:
    """A picture (H, W, 3) uint8 RGB as the content of a file.

    Args:
        picture: what to write.
        suffix: one of ``SUFFIXES``.
    """
    # PNG is packed loosely: many pictures are written, and few are kept.
    options = {'.png': [cv2.IMWRITE_PNG_COMPRESSION, 2], '.jpg': [cv2.IMWRITE_JPEG_QUALITY, 95]}.get(suffix, [])
    return cv2.imencode(suffix, np.ascontiguousarray(picture[..., ::-1]), options)[1].tobytes()
