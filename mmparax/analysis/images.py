"""Square crops of a config's images, the same for every model that looks at them."""
import hashlib
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor
from tqdm import tqdm

from mmparax.checks.data import check_datasets
from mmparax.errors import InputError, MissingFileError, ParameterError, check_int
from mmparax.inference.predictions import given_image, loads_files, read_image, test_pipeline

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')


class Images:
    """Some images of a config's test or validation data, or of a folder, prepared by the config's test pipeline.

    Attributes:
        bgr: whether their channels are in BGR order.
        origin: where they are from, in words.

    Args:
        cfg: the config; the default scope becomes its own.
        count: how many, drawn at random; all if there are fewer.
        seed: of the draw.
        folder: take the images in this folder and below it instead.

    Raises:
        UserError: if there are none.
    """

    def __init__(self, cfg: Config, count: int, seed: int = 0, folder: Optional[str] = None):
        check_int('--num-images', count)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        pipeline = test_pipeline(cfg)
        self.config, self.bgr = str(cfg.filename), loads_files(pipeline)
        found = _of_config(cfg) if folder is None else _of_folder(folder)
        self.origin = found.pop('origin')
        entries: List[Any] = found.pop('entries')
        order = np.random.default_rng(seed).permutation(len(entries))[:count]
        self._entries = [entries[number] for number in order]
        self._prepare = Compose(pipeline)
        self._identity = hashlib.sha256(str(pipeline).encode())
        for entry in self._entries:
            self._identity.update(_identity(entry))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def key(self) -> str:
        """A digest of which images these are and how they are prepared."""
        return self._identity.hexdigest()

    def smallest_side(self, progress: bool = True) -> int:
        """The shortest side of any of the images after the pipeline, in pixels."""
        numbers = tqdm(range(len(self)), desc='sizes', unit='image', disable=not progress, leave=False)
        return min(min(self._image(number).shape[-2:]) for number in numbers)

    def crops(self, numbers: Sequence[int], size: int) -> List[Tensor]:
        """The middle of some images: (3, size, size) each, as the pipeline gives them.

        Raises:
            InputError: if an image is smaller.
        """
        found = []
        for number in numbers:
            image = self._image(number)
            height, width = image.shape[-2:]
            if min(height, width) < size:
                raise ParameterError('--size', size, f'the image {self._name(number)} has {width}x{height} pixels after the test '
                                f'pipeline of {self.config!r}, less than the crop',
                                f'Use --size {min(height, width)} or less.')
            top, left = (height - size) // 2, (width - size) // 2
            found.append(image[..., top:top + size, left:left + size])
        return found

    def _name(self, number: int) -> str:
        entry = self._entries[number]
        return repr(entry) if isinstance(entry, str) else f'number {number}'

    def _image(self, number: int) -> Tensor:
        """(3, H, W), after the pipeline."""
        entry = self._entries[number]
        path = entry if isinstance(entry, str) else ''
        if not self.bgr:
            return self._prepare(given_image(path, read_image(path) if path else entry))['inputs']
        try:
            return self._prepare(dict(img_path=path, img_id=0))['inputs']
        except Exception:
            read_image(path)  # says what is wrong if it is the file
            raise


def _of_config(cfg: Config) -> Dict[str, Any]:
    """The images of the first of test_dataloader and val_dataloader that the config has: files or arrays."""
    name = next((name for name in ('test_dataloader', 'val_dataloader') if cfg.get(name)), None)
    if name is None:
        raise InputError(f'the config {cfg.filename!r} has neither test_dataloader nor val_dataloader: give a folder of '
                             'images by --images.')
    check_datasets(Config({name: cfg[name], 'default_scope': cfg.get('default_scope')}), [name])
    dataset = DATASETS.build(cfg[name].dataset)
    infos = [dataset.get_data_info(number) for number in range(len(dataset))]
    if not infos:
        raise InputError(f'{name}.dataset of {cfg.filename!r} has no images: see its data_root and data_prefix, or give a '
                             'folder of images by --images.')
    return dict(origin=f'{name} of {cfg.filename}', entries=[info.get('img_path', info.get('img')) for info in infos])


def _of_folder(folder: str) -> Dict[str, Any]:
    if not os.path.isdir(folder):
        raise MissingFileError(f'--images={folder!r} is no folder that exists.')
    files = sorted(str(path) for path in Path(folder).rglob('*') if path.suffix.lower() in SUFFIXES)
    if not files:
        raise MissingFileError(f'--images={folder!r} holds no images ({", ".join(SUFFIXES)}).')
    return dict(origin=folder, entries=files)


def _identity(entry: Any) -> bytes:
    """What tells one image from another: path, size and time of a file, the content of an array."""
    if not isinstance(entry, str):
        return np.ascontiguousarray(entry).tobytes()
    status = os.stat(entry) if os.path.exists(entry) else None
    return f'{entry} {status and (status.st_size, status.st_mtime_ns)}\n'.encode()
