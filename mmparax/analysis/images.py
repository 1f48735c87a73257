"""Square crops of a config's images, the same for every model."""
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor

from mmparax.checks.data import check_datasets
from mmparax.errors import InputError, MissingFileError, ParameterError, check_int
from mmparax.inference.predictions import get_test_pipeline, loads_files, make_pipeline_input, read_image
from mmparax.utils.images import IMAGE_ENDINGS
from mmparax.utils.progress import Progress


class ImageCrops:
    """Square crops of images: of a config's test or validation data, or of a folder, prepared by the config's test pipeline.

    Attributes:
        bgr: whether their channels are in BGR order.
        origin: where the images come from, in words.

    Args:
        cfg: the config; the default scope becomes its own.
        num_images: how many, drawn at random; all if there are fewer.
        seed: of the draw.
        image_dir: take the images in this folder and below it instead.

    Raises:
        UserError: if there are none.
    """

    def __init__(self, cfg: Config, num_images: int, seed: int = 0, image_dir: str | None = None):
        check_int('num_images', num_images)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        pipeline = get_test_pipeline(cfg)
        self.config, self.bgr = str(cfg.filename), loads_files(pipeline)
        self.origin, entries = _find_in_config(cfg) if image_dir is None else _find_in_folder(image_dir)
        order = np.random.default_rng(seed).permutation(len(entries))[:num_images]
        self._entries = [entries[number] for number in order]
        self._prepare = Compose(pipeline)
        self._identity = hashlib.sha256(str(pipeline).encode())
        for entry in self._entries:
            self._identity.update(_identify(entry))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def key(self) -> str:
        """A digest of the images and of their preparation."""
        return self._identity.hexdigest()

    def find_smallest_side(self, progress: bool = True) -> int:
        """Measure the shortest side of any of the images after the pipeline, in pixels."""
        numbers = Progress(range(len(self)), desc='sizes', unit='image', disable=not progress, leave=False)
        return min(min(self._load(number).shape[-2:]) for number in numbers)

    def cut(self, numbers: Sequence[int], size: int) -> list[Tensor]:
        """Cut the middle out of some images.

        Returns:
            list: (3, size, size) each, as the pipeline gives them.

        Raises:
            ParameterError: if an image is smaller.
        """
        crops = []
        for number in numbers:
            image = self._load(number)
            height, width = image.shape[-2:]
            if min(height, width) < size:
                raise ParameterError(
                    'size', size, f'the image {self._name(number)} has {width}x{height} pixels after the test '
                    f'pipeline of {self.config!r}, less than the crop', f'Use a size of {min(height, width)} or less.')
            top, left = (height - size) // 2, (width - size) // 2
            crops.append(image[..., top:top + size, left:left + size])
        return crops

    def _name(self, number: int) -> str:
        entry = self._entries[number]
        return repr(entry) if isinstance(entry, str) else f'number {number}'

    def _load(self, number: int) -> Tensor:
        """Return an image after the pipeline, (3, H, W)."""
        entry = self._entries[number]
        path = entry if isinstance(entry, str) else ''
        if not self.bgr:
            return self._prepare(make_pipeline_input(path, read_image(path) if path else entry))['inputs']
        try:
            return self._prepare(dict(img_path=path, img_id=0))['inputs']
        except Exception:
            read_image(path)  # raises the error that says so if the file is damaged
            raise


def _find_in_config(cfg: Config) -> tuple[str, list[Any]]:
    """Find the images of the config's test_dataloader, or else val_dataloader; return their origin and files or arrays."""
    name = next((name for name in ('test_dataloader', 'val_dataloader') if cfg.get(name)), None)
    if name is None:
        raise InputError(f'the config {cfg.filename!r} has neither test_dataloader nor val_dataloader. Give a folder of '
                         'images (image_dir).')
    check_datasets(Config({name: cfg[name], 'default_scope': cfg.get('default_scope')}), [name])
    dataset = DATASETS.build(cfg[name].dataset)
    infos = [dataset.get_data_info(number) for number in range(len(dataset))]
    if not infos:
        raise InputError(f'{name}.dataset of {cfg.filename!r} has no images. Check its data_root and data_prefix, or give a '
                         'folder of images (image_dir).')
    return f'{name} of {cfg.filename}', [info.get('img_path', info.get('img')) for info in infos]


def _find_in_folder(image_dir: str) -> tuple[str, list[Any]]:
    """Find the image files in a folder and below it; return their origin and paths."""
    if not os.path.isdir(image_dir):
        raise MissingFileError(f'the folder of images {image_dir!r} does not exist.')
    files = sorted(str(path) for path in Path(image_dir).rglob('*') if path.suffix.lower() in IMAGE_ENDINGS)
    if not files:
        raise MissingFileError(f'the folder {image_dir!r} holds no images ({", ".join(IMAGE_ENDINGS)}).')
    return image_dir, files


def _identify(entry: Any) -> bytes:
    """Return what tells one image from another: path, size and time of a file, the content of an array."""
    if not isinstance(entry, str):
        return np.ascontiguousarray(entry).tobytes()
    status = os.stat(entry) if os.path.exists(entry) else None
    return f'{entry} {status and (status.st_size, status.st_mtime_ns)}\n'.encode()
