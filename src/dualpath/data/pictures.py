"""Picture files: decoding them, and knowing which are sound and what is in them."""

import hashlib
import io
import itertools
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dualpath.data.tars import member_state, read_member

_COMMIT_EVERY = 500
_LIES = 5  # EXIF orientations from here on are turned by a quarter
MAX_PIXELS = 89_478_485  # where Pillow begins to warn
# Of those that Pillow reads: no format that runs another program or is a container of others.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


# Filters of a block would be shared by all threads that decode; these two are told otherwise.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Palette images with Transparency")


class PictureError(ValueError):
    """A picture that cannot be decoded; the message names the file."""


def open_picture(path: Path, *, side: int | None = None) -> Image.Image:
    """Decode a picture file to RGB, upright by its EXIF orientation.

    Args:
        side: decode a JPEG at the smallest of 1, 1/2, 1/4 and 1/8 of its size that leaves each side
            so many pixels (what its DCT gives at no cost); none: at its full size.

    Raises:
        PictureError: the file is missing, no picture, cut short, or a decompression bomb.
    """
    return decode_picture(read_picture(path), str(path), side=side)


def read_picture(path: Path) -> bytes:
    """Return the bytes of a picture file, or raise :class:`PictureError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        content = read_member(path)
        if content is None:
            raise PictureError(f"{path}: cannot be read ({error.strerror})") from error
        return content


def picture_state(path: Path) -> tuple[int, int] | None:
    """Return a file's size and time of change (nanoseconds), in an archive too; none: no file."""
    try:
        state = path.stat()
    except OSError:
        return member_state(path)
    return state.st_size, state.st_mtime_ns


def decode_picture(
    content: bytes, name: str, *, max_pixels: int = MAX_PIXELS, side: int | None = None
) -> Image.Image:
    """Decode the bytes of a picture as :func:`open_picture` does.

    Args:
        name: for the error.
        max_pixels: a larger one is refused before it is decoded.
    """
    with _picture_errors(name), Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        if picture.width * picture.height > max_pixels:
            raise PictureError(f"{name}: too many pixels (more than {max_pixels:,})")
        if side is not None:
            picture.draft("RGB", (side, side))
        return ImageOps.exif_transpose(picture).convert("RGB")


def picture_size(content: bytes, name: str) -> tuple[int, int]:
    """Return width and height of a picture, upright, without decoding it."""
    with _picture_errors(name), Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        lies = picture.getexif().get(ExifTags.Base.Orientation, 1) >= _LIES
        return (picture.height, picture.width) if lies else (picture.width, picture.height)


def picture_format(content: bytes, name: str) -> str:
    """Return which of :data:`FORMATS` a picture is in, or raise ``PictureError``."""
    with _picture_errors(name), Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        return str(picture.format)


@contextmanager
def _picture_errors(name: str) -> Iterator[None]:
    try:
        yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{name}: not a picture (of JPEG, PNG, WebP, BMP, GIF or TIFF)"
        ) from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"{name}: too many pixels ({error})") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise PictureError(f"{name}: cannot be decoded ({error})") from error


@dataclass(frozen=True)
class Survey:
    """What a look at every picture found.

    ``hashes``: of the bytes of each file, in order, (files,) of 32 hexadecimal digits, empty where
    the file is broken; ``broken``: those to what is wrong.
    """

    hashes: npt.NDArray[np.bytes_]
    broken: dict[Path, str]

    @property
    def sound(self) -> npt.NDArray[np.bool_]:
        """Which files are sound, (files,)."""
        sound: npt.NDArray[np.bool_] = self.hashes != b""
        return sound


def survey_pictures(
    paths: Sequence[Path], cache_folder: Path, advance: Callable[[int], None] = lambda _: None
) -> Survey:
    """Decode every picture once and hash its bytes.

    What was found is remembered in ``cache_folder`` under the file's path, size and time of
    change, so that a second survey reads only what is new. ``advance`` is called with the number
    of pictures done since the last call.
    """
    cache_folder.mkdir(parents=True, exist_ok=True)
    hashes = np.zeros(len(paths), "S32")
    broken: dict[Path, str] = {}
    every = iter(paths)
    with (
        closing(sqlite3.connect(cache_folder / "pictures.sqlite", timeout=60)) as memory,
        ThreadPoolExecutor() as pool,
    ):
        memory.execute(
            "create table if not exists sound "
            "(path text primary key, size integer, changed integer, hash text)"
        )
        for start in range(0, len(paths), _COMMIT_EVERY):
            chunk = list(itertools.islice(every, _COMMIT_EVERY))
            found = _look_at(chunk, memory, pool)
            for place, (path, result) in enumerate(zip(chunk, found, strict=True), start=start):
                if isinstance(result, PictureError):
                    broken[path] = str(result)
                else:
                    hashes[place] = result
            advance(len(chunk))
    return Survey(hashes=hashes, broken=broken)


def _look_at(
    paths: list[Path], memory: sqlite3.Connection, pool: ThreadPoolExecutor
) -> list[str | PictureError]:
    names = [str(path.resolve()) for path in paths]
    marks = ", ".join("?" * len(names))
    rows = memory.execute(f"select * from sound where path in ({marks})", names)
    remembered = {name: known for name, *known in rows}
    states = [picture_state(path) or (-1, -1) for path in paths]
    found: dict[int, str | PictureError] = {}
    for place, (name, state) in enumerate(zip(names, states, strict=True)):
        *state_then, known = remembered.get(name, (None, None))
        if tuple(state_then) == state:
            found[place] = known
    unknown = [place for place in range(len(paths)) if place not in found]
    for place, result in zip(unknown, pool.map(_look, [paths[p] for p in unknown]), strict=True):
        found[place] = result
        if not isinstance(result, PictureError):
            memory.execute(
                "insert or replace into sound values (?, ?, ?, ?)",
                (names[place], *states[place], result),
            )
    memory.commit()
    return [found[place] for place in range(len(paths))]


def picture_hash(content: bytes) -> str:
    """Return the hash under which everything computed from a picture is remembered."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _look(path: Path) -> str | PictureError:
    try:
        content = read_picture(path)
        decode_picture(content, str(path))
    except PictureError as error:
        return error
    return picture_hash(content)


def broken_pictures_message(broken: dict[Path, str]) -> str:
    """Return what to tell about broken pictures: each on a line, ten at most, and the mend."""
    shown = list(broken.values())[:10]
    more = len(broken) - len(shown)
    count = "1 picture is" if len(broken) == 1 else f"{len(broken)} pictures are"
    return "\n".join(
        [f"{count} broken; mend or remove them, or leave them out with --skip-broken:"]
        + shown
        + ([f"... and {more} more"] if more else [])
    )
