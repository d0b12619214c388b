import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dualpath.data.images import image_size, open_image
from dualpath.data.transforms import WHOLE, preprocess
from dualpath.errors import ImageError
from tests.data.files import save_image

ORIENTATION = 0x0112  # EXIF tag; the value 6 is a quarter turn


def png_with_header(width, height):
    """A PNG whose header claims a size, without the pixels."""

    def chunk(kind, body):
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "LA"])
def test_an_image_of_any_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}"
    Image.new(mode, (8, 6)).save(path)
    assert open_image(path).mode == "RGB"


def test_an_image_is_turned_upright_by_its_exif_orientation(tmp_path):
    turned = Image.new("RGB", (8, 6))
    exif = turned.getexif()
    exif[ORIENTATION] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (6, 8)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut.jpg", "cannot be decoded"),
        ("text.jpg", "not an image"),
        ("bomb.png", "too many pixels"),
        ("missing.jpg", "No such file"),
    ],
)
def test_an_unusable_image_is_named_with_the_reason(tmp_path, name, reason):
    whole = save_image(tmp_path / "whole.jpg", size=(300, 300)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "bomb.png").write_bytes(png_with_header(60_000, 60_000))
    with pytest.raises(ImageError, match=rf"{name}: .*{reason}"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_the_smallest_sufficient_size(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    gradient = np.linspace(0, 255, 1600, dtype=np.uint8)[None, :, None].repeat(1200, axis=0)
    path = tmp_path / "large.jpg"
    Image.fromarray(gradient.repeat(3, axis=2)).save(path, quality=95, exif=exif)
    small, full = open_image(path, side=448), open_image(path)
    upright = (1600, 1200) if orientation == 1 else (1200, 1600)
    assert full.size == image_size(path.read_bytes(), "large") == upright
    assert small.size == tuple(length // 2 for length in upright)
    pixels = [preprocess(image, WHOLE, 224).astype(int) for image in (small, full)]
    assert abs(pixels[0] - pixels[1]).mean() < 1
