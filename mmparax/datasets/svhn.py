"""SVHN, a data set that mmpretrain lacks."""
import os
import sys
import tempfile
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmparax.errors import InputError, MissingFileError, ParameterError, check_choice
from mmparax.registry import DATASETS
from mmparax.utils.toolboxes import require
from mmparax.weights.sources import get_local_rank

require('mmcv', 'mmpretrain')

from mmpretrain.datasets import BaseDataset  # noqa: E402
from torchvision.datasets import SVHN as Source  # noqa: E402
from torchvision.datasets.utils import check_integrity  # noqa: E402


@DATASETS.register_module()
class SVHN(BaseDataset):
    """Street View House Numbers, cropped digits of 32x32 pixels, read by torchvision.

    Source: Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011
    (http://ufldl.stanford.edu/housenumbers). 73,257 images for training, 26,032 for testing and 531,131 easier ones.

    A sample has ``img``, (32, 32, 3) uint8 in RGB order as mmpretrain's CIFAR sets have it: the data preprocessor needs
    ``to_rgb=False`` (True would swap red and blue; it is for images that a pipeline loads from files, which are BGR). Its
    ``gt_label`` is the digit, 0 to 9; the files call the digit 0 "10".

    Args:
        data_root: folder of ``train_32x32.mat``, ``test_32x32.mat`` and ``extra_32x32.mat``; one split needs one of them.
        split: 'train', 'test' or 'extra'.
        download: fetch a missing or damaged file. The first process of each machine does, the others wait.
        test_mode: raise an error when a sample cannot be had, instead of taking another one; default: for 'test' only.
        **kwargs: other arguments of mmpretrain's ``BaseDataset``: ``pipeline``, ``metainfo``, ``indices``, ...

    Raises:
        InputError: for a wrong argument, or a damaged file with ``download=False``.
        MissingFileError: if the file is not there and not to be downloaded, or cannot be.
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self, data_root: str | os.PathLike, split: str = 'train', download: bool = True, test_mode: bool | None = None,
                 **kwargs: Any) -> None:
        if not isinstance(data_root, (str, os.PathLike)) or not os.fspath(data_root):
            raise ParameterError('data_root', data_root, 'it must be the folder where the files of SVHN are or shall be')
        self.split = check_choice('split', split, tuple(Source.split_list))
        self.download = download
        super().__init__(ann_file='', data_root=os.path.expanduser(os.fspath(data_root)),
                         test_mode=split == 'test' if test_mode is None else test_mode, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Fetch the file of the split if it is missing, and read it."""
        fetch_split(Path(self.data_root), self.split, self.download)
        content = Source(self.data_root, self.split)
        return [
            dict(img=np.ascontiguousarray(image.transpose(1, 2, 0)), gt_label=int(label))
            for image, label in zip(content.data, content.labels)
        ]

    def extra_repr(self) -> list[str]:
        """What ``repr`` tells of the source."""
        return [f'Root of dataset: \t{self.data_root}', f'Split: \t{self.split}']


def fetch_split(root: Path, split: str, download: bool) -> None:
    """Download the file of a split into ``root`` unless it is there, whole.

    Raises:
        InputError: if it is damaged and not to be downloaded.
        MissingFileError: if it is missing and not to be downloaded, or cannot be.
    """
    url, name, digest = Source.split_list[split]
    path = root / name
    if check_integrity(path, digest):
        return
    damaged = path.is_file()
    problem = f'the MD5 sum of {str(path)!r} is not the published one' if damaged else f'there is no {str(path)!r}'
    remedy = f'download {url} by other means and put it there, or set data_root to its folder'
    if not download:
        raise (InputError if damaged else MissingFileError
               )(f'data_root={str(root)!r} cannot be used with split={split!r}: {problem}. Set download=True, or {remedy}.')
    if get_local_rank() != 0:
        # No collective: the processes of another machine may have the file already and would not take part.
        _wait_for(path, digest)
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix='.download-') as folder:
            part = Path(folder) / name
            torch.hub.download_url_to_file(url, str(part), progress=sys.stderr.isatty())
            if not check_integrity(part, digest):
                raise OSError('its MD5 sum is not the published one')
            part.replace(path)
    except (OSError, HTTPException) as error:  # urllib's are among the first
        raise MissingFileError(f'data_root={str(root)!r} cannot be used with split={split!r}: {problem}, and {url} could not '
                               f'be downloaded ({error}); {remedy}.') from error


def _wait_for(path: Path, digest: str, seconds: float = 3600.) -> None:
    """Wait until the first process of this machine has put the whole file in its place."""
    end, seen = time.monotonic() + seconds, None
    while True:
        written = path.stat().st_mtime_ns if path.is_file() else None
        if written != seen and check_integrity(path, digest):  # a sum over hundreds of MB: not at every look
            return
        seen = written
        if time.monotonic() > end:
            raise MissingFileError(f'{str(path)!r} was not downloaded within {seconds:.0f} s by the first process of this '
                                   'machine. Put it there by other means.')
        time.sleep(0.5)
