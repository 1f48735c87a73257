"""What the header of an image file says."""
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

EXIF_ORIENTATION, EXIF_SIDEWAYS = 0x0112, (5, 6, 7, 8)
UPRIGHT = 1


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
    with Image.open(path) as image:
        return describe_image(image)


def describe_image(image: Image.Image) -> ImageHeader:
    """The header of an image that PIL has opened."""
    orientation = image.getexif().get(EXIF_ORIENTATION, UPRIGHT)
    return ImageHeader(image.width, image.height, orientation if isinstance(orientation, int) else UPRIGHT, image.mode)
