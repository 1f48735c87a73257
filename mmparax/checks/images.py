"""What can be wrong with an image file."""
from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import mmcv
import numpy as np

from mmparax.utils.images import UPRIGHT, describe_image, open_image
from mmparax.utils.text import summarize_error

# What PIL and OpenCV both read; of another format the configured loader itself is asked.
COMMON_FORMATS = ('JPEG', 'MPO', 'PNG', 'BMP', 'WEBP')
OPENCV_PIXELS = 2**30  # more in one image it refuses


@dataclass(frozen=True)
class Loader:
    """How a pipeline reads a file: the options of mmcv's ``LoadImageFromFile`` and ``LoadAnnotations``.

    Attributes:
        flag: such as ``'color'`` or ``'unchanged'``.
        backend: ``'cv2'``, ``'pillow'``, ...
    """
    flag: str = 'color'
    backend: str | None = 'cv2'

    def read(self, path: str) -> np.ndarray:
        """Read a file as the pipeline does.

        Returns:
            (H, W) or (H, W, C).

        Raises:
            OSError: if it cannot be read, whatever the decoder says.
        """
        try:
            with open(path, 'rb') as file:
                found = mmcv.imfrombytes(file.read(), flag=self.flag, backend=self.backend)
        except Exception as error:
            raise OSError(summarize_error(error)) from error
        if found is None:
            raise OSError('it is no image that the loader knows')
        return found


@dataclass
class ImageFacts:
    """What one look at all bytes of an image found.

    Attributes:
        width: in pixels, as the loader gives it; None if it cannot be read.
        height: in pixels.
        orientation: of its EXIF tag; 1 is upright.
        turned: whether the loader turned it sideways.
        error: why it cannot be read, or ''.
        damage: what is wrong with an image that is read all the same, or ''.
    """
    width: int | None = None
    height: int | None = None
    orientation: int = UPRIGHT
    turned: bool = False
    error: str = ''
    damage: str = ''


def examine_image(path: str, loader: Loader = Loader()) -> ImageFacts:
    """Read an image completely and say what is wrong with it; nothing is raised."""
    if not os.path.isfile(path):
        return ImageFacts(error='it does not exist')
    if not os.path.getsize(path):
        return ImageFacts(error='it is empty (0 bytes)')
    header, damage = None, ''
    try:
        with warnings.catch_warnings(), open_image(path) as image:
            warnings.simplefilter('ignore')
            header, kind = describe_image(image), image.format
            image.load()
    except Exception as error:  # whatever a decoder says
        damage, kind = describe_error(error), None
    turned = False
    large = header is not None and header.width * header.height > OPENCV_PIXELS
    if damage or kind not in COMMON_FORMATS or header is None or header.orientation != UPRIGHT or large:
        try:  # the configured loader has the last word
            height, width = loader.read(path).shape[:2]
        except OSError as error:
            return ImageFacts(error=damage or str(error))
        turned = header is not None and (width, height) == (header.height, header.width) != (header.width, header.height)
        # A file that PIL does not know, and the loader does, is sound; one that ends too early is filled with grey.
        damage = damage if header is not None else ''
    else:
        width, height = header.width, header.height
    return ImageFacts(width, height, header.orientation if header else UPRIGHT, turned, '', damage)


def describe_error(error: Exception) -> str:
    """One line on why a file cannot be decoded."""
    text = str(error)
    if 'truncated' in text or 'Truncated' in text or isinstance(error, EOFError):
        return 'it ends too early (truncated)'
    if 'cannot identify' in text:
        return 'it is no image'
    return summarize_error(error)
