"""Image files: reading and decoding them.

Every image that this package uses, from a file, an archive or a request, goes through
:func:`read_image_bytes` and :func:`decode_image`. They read regular files alone, limit bytes and
pixels, and raise nothing but :class:`ImageError`, whatever the file contains.
"""

import hashlib
import io
import os
import stat
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from PIL import ExifTags, Image, UnidentifiedImageError

from dualpath.data.formats import missing_format, readable_formats
from dualpath.data.jxl import jxl_pixels
from dualpath.data.pixels import convert as to_rgb
from dualpath.data.png import without_texts
from dualpath.data.webdataset import member_state, read_member
from dualpath.errors import ImageError
from dualpath.utils.text import error_reason

MAX_PIXELS = 89_478_485  # the limit above which Pillow warns
MAX_PIXELS_VARIABLE = "DUALPATH_MAX_PIXELS"
MAX_BYTES = 2**30  # of an image file
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FIRST_QUARTER_TURN = 5  # EXIF orientations from here on turn the image by 90 degrees
_TURNED_BY_PILLOW = ("TIFF", "JXL")  # or its plugin, when it decodes
_PIXELS_VERSION = b"2"  # of the conversion of images that are not plain 8-bit RGB
_T = TypeVar("_T")


# Threads that decode share one list of warning filters, so these two are set once and for all.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.|pillow_")
warnings.filterwarnings("ignore", message="Palette images with Transparency")


def open_image(path: Path, *, side: int | None = None, convert: bool = True) -> Image.Image:
    """Decode an image file to 8-bit sRGB, upright by its EXIF orientation.

    See :mod:`dualpath.data.pixels` for other depths, transparency and colour profiles.

    Args:
        side: decode a JPEG at the smallest of 1, 1/2, 1/4 and 1/8 of its size that leaves each side
            at least this many pixels, which is faster. None: decode at full size.
        convert: whether the image is converted to RGB. If not, it has the mode of its file.

    Raises:
        ImageError: the file is missing, not an image, truncated, or a decompression bomb.
    """
    return decode_image(read_image_bytes(path), str(path), side=side, convert=convert)


def read_image_bytes(path: Path) -> bytes:
    """Return the bytes of an image file, also inside a WebDataset shard.

    Raises:
        ImageError: the file cannot be read, is not a regular file, or has more than
            :data:`MAX_BYTES`.
    """
    try:
        return _read_regular_file(find_image_file(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error_reason(error)
        try:
            content = read_member(path, MAX_BYTES)
        except (OSError, ValueError) as member_error:
            content, reason = None, error_reason(member_error)
        if content is None:
            raise ImageError(f"{_printable(path)}: cannot be read ({reason})") from error
        return content


def image_state(path: Path) -> tuple[int, int] | None:
    """Return size (bytes) and modification time (nanoseconds) of a file; None if there is none."""
    try:
        state = find_image_file(path).stat()
    except (OSError, ValueError):
        try:
            return member_state(path)
        except (OSError, ValueError):
            return None
    return state.st_size, state.st_mtime_ns


def find_image_file(path: Path) -> Path:
    """Return the path of an image file whose name may be written in another way.

    A table from another system may have backslashes between folders, accents in the other Unicode
    form (NFC or NFD), or spaces around a name. ``path`` is returned if it exists, or if no such
    file does. A backslash never leads to a parent folder.
    """
    try:
        if os.path.lexists(path):
            return path
        current = Path(path.anchor)
        for part in path.parts[1 if path.anchor else 0 :]:
            spellings = (current / name for name in _spellings(part))
            current = next(found for found in spellings if os.path.lexists(found))
    except (StopIteration, ValueError):
        return path
    return current


def max_pixels() -> int:
    """Return the largest number of pixels of an image, which an environment variable can change.

    Raises:
        ImageError: ``DUALPATH_MAX_PIXELS`` is not a positive number.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or not int(text):
        raise ImageError(f"{MAX_PIXELS_VARIABLE}={text}: must be a number of pixels")
    return int(text)


def decode_image(
    content: bytes,
    name: str,
    *,
    max_pixels: int | None = None,
    side: int | None = None,
    convert: bool = True,
) -> Image.Image:
    """Decode the bytes of an image as :func:`open_image` does.

    Args:
        name: of the file, for the error message.
        max_pixels: larger images are refused before they are decoded. None: :func:`max_pixels`.
    """

    def decode(image: Image.Image) -> Image.Image:
        _draft(image, side)
        loaded = to_rgb(_loaded(image)).image if convert else _loaded(image).copy()
        return _upright(loaded, _orientation(image))

    return _with_image(content, name, decode, max_pixels)


def image_key(content: bytes, name: str) -> str:
    """Decode an image and return the key of its pixels in caches, 32 hexadecimal digits.

    The key is the hash of the bytes, with the version of the conversion where pixels are not used
    as Pillow decodes them.

    Raises:
        ImageError: the image cannot be decoded.
    """
    changed = _with_image(content, name, lambda image: to_rgb(_loaded(image)).changed)
    if not changed:
        return image_hash(content)
    return hashlib.blake2b(content, digest_size=16, salt=_PIXELS_VERSION).hexdigest()


def image_size(content: bytes, name: str) -> tuple[int, int]:
    """Return width and height of an image, upright, without decoding it."""

    def size(image: Image.Image) -> tuple[int, int]:
        turned = _orientation(image) >= _FIRST_QUARTER_TURN
        return (image.height, image.width) if turned else (image.width, image.height)

    return _with_image(content, name, size)


def image_format(content: bytes, name: str) -> str:
    """Return the format of an image, such as ``JPEG``; raises :class:`ImageError`."""
    return _with_image(content, name, lambda image: str(image.format)).replace("MPO", "JPEG")


def image_hash(content: bytes) -> str:
    """Return the hash of an image file, 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _read_regular_file(path: Path) -> bytes:
    """Read a file; opening a pipe or a device could block for ever."""
    _check_file(path.stat())
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        _check_file(os.fstat(descriptor))  # another file may have taken its place
        return file.read(MAX_BYTES)


def _check_file(state: os.stat_result) -> None:
    if stat.S_ISDIR(state.st_mode):
        raise ValueError("Is a directory")
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("not a regular file")
    if state.st_size > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")


def _spellings(name: str) -> Iterator[str]:
    with_slashes = name.replace("\\", "/").strip()
    if ".." in with_slashes.split("/"):
        with_slashes = name  # the result must stay in the folder that callers have checked
    for spelling in (name, name.strip(), with_slashes):
        yield spelling
        yield unicodedata.normalize("NFC", spelling)
        yield unicodedata.normalize("NFD", spelling)


def _with_image(
    content: bytes,
    name: str,
    use: Callable[[Image.Image], _T],
    limit: int | None = None,
) -> _T:
    """Open an image, check its size, and return what ``use`` makes of it."""
    limit = max_pixels() if limit is None else limit
    if Image.MAX_IMAGE_PIXELS is not None and limit > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit  # Pillow refuses twice as many
    with _image_errors(name, content):
        formats = readable_formats(content)
        if formats == ("JXL",):
            _check_pixels(jxl_pixels(content), name, limit)
        with Image.open(io.BytesIO(without_texts(content)), formats=formats) as image:
            if not image.width * image.height:
                raise ImageError(f"{name}: has no pixels")
            _check_pixels(image.width * image.height, name, limit)
            return use(image)


def _check_pixels(pixels: int, name: str, limit: int) -> None:
    if pixels > limit:
        raise ImageError(
            f"{name}: too many pixels ({pixels:,}; more than {limit:,}); raise the limit with "
            f"dualpath --max-pixels or {MAX_PIXELS_VARIABLE}"
        )


def _draft(image: Image.Image, side: int | None) -> None:
    if side is not None and image.format in ("JPEG", "MPO"):
        image.draft("RGB", (side, side))


def _loaded(image: Image.Image) -> Image.Image:
    image.load()
    return image


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation by which decoded pixels must still be turned, 1 to 8."""
    if image.format in _TURNED_BY_PILLOW and not getattr(image, "jpeg", False):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # EXIF may contain anything; the pixels are good all the same
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


def _printable(path: Path) -> str:
    return str(path).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


@contextmanager
def _image_errors(name: str, content: bytes) -> Iterator[None]:
    """Raise every error of a decoder as an ``ImageError``."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        reason = missing_format(content)
        if reason is not None:
            raise ImageError(f"{name}: {reason}") from error
        raise ImageError(
            f"{name}: not an image (JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, HEIC or JPEG XL)"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too many pixels ({error_reason(error)})") from error
    except MemoryError as error:
        raise ImageError(f"{name}: cannot be decoded (not enough memory)") from error
    except Exception as error:  # fuzzing found a dozen types that decoders raise
        raise ImageError(f"{name}: cannot be decoded ({error_reason(error)})") from error
