"""Images that come in and go out: only real ones, only from the indexed folders."""

import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from dualpath.data.images import decode_image, image_format, image_hash, image_state, open_image
from dualpath.errors import ImageError

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
_KEPT = 2_000  # thumbnails, some 20 KB each


def decode_upload(content: bytes, max_pixels: int) -> Image.Image:
    """Decode what a client sent, judged by content alone, or raise ``ImageError``."""
    return decode_image(content, "the file", max_pixels=max_pixels)


def keep_upload(content: bytes, folder: Path) -> Path:
    """Write an upload under the hash of its content, whole or not at all; return where."""
    suffix = _SUFFIXES.get(image_format(content, "the file"), ".tif")
    path = folder / f"{image_hash(content)}{suffix}"
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)
    return path


def thumbnail(path: Path, size: int, roots: Sequence[Path]) -> bytes:
    """Return an image as a JPEG of at most ``size`` pixels a side, without its metadata.

    Raises:
        ImageError: it is gone, no image any more, or a link that leaves the folders.
    """
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(root) for root in roots):
        raise ImageError(f"{path}: lies outside of the indexed folders")
    state = image_state(real)
    if state is None:
        raise ImageError(f"{path}: cannot be read (there is no such file)")
    return _thumbnail(real, state[1], size)


@lru_cache(_KEPT)
def _thumbnail(path: Path, _changed: int, size: int) -> bytes:
    image = open_image(path, side=2 * size)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
