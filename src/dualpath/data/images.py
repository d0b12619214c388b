"""Image files: reading and decoding them."""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dualpath.data.webdataset import member_state, read_member
from dualpath.errors import ImageError
from dualpath.utils.text import error_reason

_FIRST_QUARTER_TURN = 5  # EXIF orientations from here on turn the image by 90 degrees
MAX_PIXELS = 89_478_485  # the limit above which Pillow warns
# A subset of what Pillow reads: no format that runs another program or contains other files.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


# Threads that decode share one list of warning filters, so these two are set once and for all.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Palette images with Transparency")


def open_image(path: Path, *, side: int | None = None, convert: bool = True) -> Image.Image:
    """Decode an image file to RGB, upright by its EXIF orientation.

    Args:
        side: decode a JPEG at the smallest of 1, 1/2, 1/4 and 1/8 of its size that leaves each side
            at least this many pixels, which is faster. None: decode at full size.
        convert: whether the image is converted to RGB.

    Raises:
        ImageError: the file is missing, not an image, truncated, or a decompression bomb.
    """
    return decode_image(read_image_bytes(path), str(path), side=side, convert=convert)


def read_image_bytes(path: Path) -> bytes:
    """Return the bytes of an image file, also inside a WebDataset shard.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        content = read_member(path)
        if content is None:
            raise ImageError(f"{path}: cannot be read ({error.strerror})") from error
        return content


def image_state(path: Path) -> tuple[int, int] | None:
    """Return size (bytes) and modification time (nanoseconds) of a file; None if there is none."""
    try:
        state = path.stat()
    except OSError:
        return member_state(path)
    return state.st_size, state.st_mtime_ns


def decode_image(
    content: bytes,
    name: str,
    *,
    max_pixels: int = MAX_PIXELS,
    side: int | None = None,
    convert: bool = True,
) -> Image.Image:
    """Decode the bytes of an image as :func:`open_image` does.

    Args:
        name: of the file, for the error message.
        max_pixels: larger images are refused before they are decoded.
    """
    with _image_errors(name), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise ImageError(f"{name}: too many pixels (more than {max_pixels:,})")
        if side is not None:
            image.draft("RGB", (side, side))
        upright = ImageOps.exif_transpose(image)
        return upright.convert("RGB") if convert else upright


def image_size(content: bytes, name: str) -> tuple[int, int]:
    """Return width and height of an image, upright, without decoding it."""
    with _image_errors(name), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turned = orientation >= _FIRST_QUARTER_TURN
        return (image.height, image.width) if turned else (image.width, image.height)


def image_format(content: bytes, name: str) -> str:
    """Return the format of an image, one of :data:`FORMATS`; raises :class:`ImageError`."""
    with _image_errors(name), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return str(image.format)


def image_hash(content: bytes) -> str:
    """Return the hash of an image file that caches use as its key, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@contextmanager
def _image_errors(name: str) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image (JPEG, PNG, WebP, BMP, GIF or TIFF)") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too many pixels ({error_reason(error)})") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageError(f"{name}: cannot be decoded ({error_reason(error)})") from error
