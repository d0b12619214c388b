"""Pictures that come in and go out: only real ones, only from the indexed folders."""

import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from dualpath.data.pictures import (
    PictureError,
    decode_picture,
    open_picture,
    picture_format,
    picture_hash,
    picture_state,
)

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
_KEPT = 2_000  # thumbnails, some 20 KB each


def decode_upload(content: bytes, max_pixels: int) -> Image.Image:
    """Decode what a client sent, judged by content alone, or raise ``PictureError``."""
    return decode_picture(content, "the file", max_pixels=max_pixels)


def keep_upload(content: bytes, folder: Path) -> Path:
    """Write an upload under the hash of its content, whole or not at all; return where."""
    suffix = _SUFFIXES.get(picture_format(content, "the file"), ".tif")
    path = folder / f"{picture_hash(content)}{suffix}"
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)
    return path


def thumbnail(path: Path, size: int, roots: Sequence[Path]) -> bytes:
    """Return a picture as a JPEG of at most ``size`` pixels a side, without its metadata.

    Raises:
        PictureError: it is gone, no picture any more, or a link that leaves the folders.
    """
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(root) for root in roots):
        raise PictureError(f"{path}: lies outside of the indexed folders")
    state = picture_state(real)
    if state is None:
        raise PictureError(f"{path}: cannot be read (there is no such file)")
    return _thumbnail(real, state[1], size)


@lru_cache(_KEPT)
def _thumbnail(path: Path, _changed: int, size: int) -> bytes:
    picture = open_picture(path, side=2 * size)
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
