"""What the header of an image file says."""
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

EXIF_ORIENTATION, EXIF_SIDEWAYS = 0x0112, (5, 6, 7, 8)
UPRIGHT = 1
IMAGE_ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')  # that PIL and OpenCV read
LOSSY_ENDINGS = ('.jpg', '.jpeg', '.webp')  # of files that change the values of masks


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes of an image file say; no pixel is read.

    Attributes:
        width: in pixels, as stored.
        height: in pixels, as stored.
        orientation: of its EXIF tag; 1 is upright.
        mode: PIL's, such as ``'RGB'``, ``'L'``, ``'P'`` or ``'I;16'``.
    """
    width: int
    height: int
    orientation: int
    mode: str

    @property
    def loaded_size(self) -> tuple[int, int]:
        """(width, height) after the turn that the EXIF tag asks for, which OpenCV makes when it reads colours."""
        return (self.height, self.width) if self.orientation in EXIF_SIDEWAYS else (self.width, self.height)


def read_header(path: str | Path) -> ImageHeader:
    """Read the header of an image.

    Raises:
        OSError: if it is not there, is empty or no image.
    """
    try:
        with open_image(path) as image:
            return describe_image(image)
    except OSError:
        raise
    except Exception as error:  # PIL's readers raise ValueError, SyntaxError and more for damaged files
        raise OSError(f'{type(error).__name__}: {error}') from error


_limit_lock, _limit_users, _limit = Lock(), 0, Image.MAX_IMAGE_PIXELS


@contextmanager
def open_image(source: Any) -> Iterator[Image.Image]:
    """``PIL.Image.open`` for images of any size.

    PIL takes what has more than 179 million pixels for an attack; pictures of satellites and microscopes have more, and
    training reads them with OpenCV. The limit is one number of the whole process: it is back when the last image is closed.
    """
    global _limit, _limit_users
    with _limit_lock:
        if not _limit_users:
            _limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _limit_users += 1
    try:
        with Image.open(source) as image:
            yield image
    finally:
        with _limit_lock:
            _limit_users -= 1
            if not _limit_users:
                Image.MAX_IMAGE_PIXELS = _limit


def describe_image(image: Image.Image) -> ImageHeader:
    """The header of an image that PIL has opened."""
    orientation = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    return ImageHeader(image.width, image.height, orientation if isinstance(orientation, int) else UPRIGHT, image.mode)
