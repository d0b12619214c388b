"""Images of requests and responses: decoding and saving uploads, making thumbnails."""

import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from dualpath.data.images import decode_image, image_format, image_hash, image_state, open_image
from dualpath.errors import ImageError
from dualpath.utils.files import atomic_write

_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "AVIF": ".avif",
    "HEIF": ".heic",
    "JXL": ".jxl",
}
_UPLOAD = "the uploaded file"  # its name is not used, because the client chooses it
_CACHED_THUMBNAILS = 2_000  # of about 20 KB


def decode_upload(content: bytes, max_pixels: int) -> Image.Image:
    """Decode an uploaded image. Its type is read from its content, not from its name.

    Raises:
        ImageError: it is not an image, or too large.
    """
    return decode_image(content, _UPLOAD, max_pixels=max_pixels)


def save_upload(content: bytes, folder: Path) -> Path:
    """Write an uploaded image to a file that is named by the hash of its content.

    Returns:
        The path of the file.
    """
    suffix = _SUFFIXES.get(image_format(content, _UPLOAD), ".tif")
    path = folder / f"{image_hash(content)}{suffix}"
    atomic_write(path, content)
    return path


def thumbnail(path: Path, size: int, roots: Sequence[Path]) -> bytes:
    """Return an image as a JPEG without the metadata of its file.

    Args:
        path: of the image.
        size: largest side in pixels.
        roots: folders in which the file must be.

    Raises:
        ImageError: the file does not exist, is not an image, or links to a file outside of
            ``roots``.
    """
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(root) for root in roots):
        raise ImageError(f"{path}: outside of the indexed folders")
    state = image_state(real)
    if state is None:
        raise ImageError(f"{path}: cannot be read (the file does not exist)")
    return _thumbnail(real, state[1], size)


@lru_cache(_CACHED_THUMBNAILS)
def _thumbnail(path: Path, _modified: int, size: int) -> bytes:
    """Make a thumbnail. The modification time is part of the key of the cache."""
    image = open_image(path, side=2 * size)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
