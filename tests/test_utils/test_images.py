"""Headers of images: of any size, and an error of one kind for all that is no image."""
import struct
import zlib

import pytest
from PIL import Image

from mmparax.checks.images import examine_image
from mmparax.utils.images import open_image, read_header


def write_large(path, width=20_000, height=10_000):
    """A PNG of one colour, a bit for each pixel: 25 kB for 200 megapixels, more than PIL opens on its own."""

    def chunk(kind, content):
        return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))

    packer, row = zlib.compressobj(9), b'\0' * (1 + (width + 7) // 8)
    content = b''.join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', content) + chunk(b'IEND', b''))


def test_large_images_are_read(tmp_path):
    path = tmp_path / 'large.png'
    write_large(path)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    header = read_header(path)
    assert (header.width, header.height, header.mode) == (20_000, 10_000, '1')
    facts = examine_image(str(path))
    assert (facts.width, facts.height, facts.error, facts.damage) == (20_000, 10_000, '', '')


def test_the_limit_of_pil_is_what_it_was(tmp_path):
    limit = Image.MAX_IMAGE_PIXELS
    Image.new('L', (3, 2)).save(tmp_path / 'small.png')
    with open_image(tmp_path / 'small.png') as outer, open_image(tmp_path / 'small.png') as inner:
        assert outer.size == inner.size == (3, 2) and Image.MAX_IMAGE_PIXELS is None
    assert Image.MAX_IMAGE_PIXELS == limit
    with pytest.raises(OSError), open_image(tmp_path / 'absent.png'):
        pass
    assert Image.MAX_IMAGE_PIXELS == limit


@pytest.mark.parametrize('content', [b'', b'text', b'\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR', b'II*\0\x08\0\0\0\x01\0', b'P6\nx y\n'])
def test_what_is_no_image_is_an_os_error(content, tmp_path):
    (tmp_path / 'image').write_bytes(content)
    with pytest.raises(OSError):
        read_header(tmp_path / 'image')
