"""Writing the rows of a data set as a folder with a manifest and, if wanted, resized images."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from dualpath.data.images import image_size, image_state, open_image, read_image_bytes
from dualpath.data.manifest import write_manifest
from dualpath.data.transforms import scaled_size
from dualpath.datasets.base import DatasetRow, PreparedDataset, SplitCounts
from dualpath.errors import DatasetError, ImageError
from dualpath.types import Progress, no_progress
from dualpath.utils.files import atomic_path
from dualpath.utils.text import first_n_and_more

_SHOWN_MISSING = 5
_JPEG_QUALITY = 95


def write_dataset(
    rows: Sequence[DatasetRow],
    out: Path,
    *,
    published: SplitCounts | None = None,
    resize: int | None = None,
    square: bool = False,
    workers: int = 2,
    progress: Progress = no_progress,
) -> PreparedDataset:
    """Write a manifest of the rows whose image exists.

    Args:
        rows: of the data set.
        out: folder to write. Without ``resize`` the manifest refers to the images where they are,
            with paths relative to this folder.
        published: number of images of each split; a difference becomes a warning.
        resize: write copies whose shorter side has this many pixels. Existing copies are skipped,
            so an interrupted call continues.
        square: squash copies to a square.
        workers: processes that resize.
        progress: called with the number of images resized since the last call.

    Raises:
        DatasetError: no image exists, or an image cannot be decoded.
    """
    exists = [image_state(row.path) is not None and _is_unicode(str(row.path)) for row in rows]
    present = [row for row, found in zip(rows, exists, strict=True) if found]
    missing = [row.path for row, found in zip(rows, exists, strict=True) if not found]
    if not present:
        raise DatasetError(_nothing_found(missing))
    out.mkdir(parents=True, exist_ok=True)
    if resize is None:
        names = [Path(os.path.relpath(row.path, out)).as_posix() for row in present]
    else:
        names = copy_names([row.name for row in present])
        copies = [out / name for name in names]
        resize_one = partial(resize_image, side=resize, square=square)
        for folder in {copy.parent for copy in copies}:
            folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(workers) as pool:
            for _ in pool.map(resize_one, [row.path for row in present], copies, chunksize=16):
                progress(1)
    manifest_rows = (_manifest_row(name, row) for name, row in zip(names, present, strict=True))
    manifest = write_manifest(out, manifest_rows)
    counts = dict(Counter(row.split or "without a split" for row in present))
    return PreparedDataset(manifest, counts, _warnings(missing, counts, published or {}))


def copy_names(names: Sequence[str]) -> list[str]:
    """Return the path of the resized copy of each image, below the folder ``images``.

    Copies are JPEG. ``.jpg`` is added to other names, so ``a.png`` and ``a.jpg`` have two copies.

    >>> copy_names(["x/a.png", "x/a.jpg", "../a.jpg"])
    ['images/x/a.png.jpg', 'images/x/a.jpg', 'images/a.jpg']
    """
    taken: dict[str, str] = {}  # in lower case: some file systems do not distinguish the cases
    copies = []
    for name in names:
        parts = [part for part in name.replace("\\", "/").split("/") if part.strip(".")]
        copy = "/".join(["images", *parts])
        copy = copy if copy.endswith(".jpg") else f"{copy}.jpg"
        if taken.setdefault(copy.lower(), name) != name:
            digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8)
            copy = f"{copy.removesuffix('.jpg')}-{digest.hexdigest()}.jpg"
        copies.append(copy)
    return copies


def resize_image(path: Path, target: Path, *, side: int, square: bool) -> None:
    """Write a resized copy of an image as JPEG, unless ``target`` is one of this size.

    Args:
        side: pixels of the shorter side, or of both sides if ``square``.

    Raises:
        DatasetError: the image cannot be decoded.
    """
    if _has_side(target, side):
        return
    try:
        image = open_image(path)
        size = (side, side) if square else scaled_size(image, side)
    except ImageError as error:
        name = "" if str(path) in str(error) else f"{path}: "
        raise DatasetError(f"{name}{error}") from error
    with atomic_path(target) as temporary:
        resized = image.resize(size, Image.Resampling.BICUBIC)
        resized.save(temporary, "JPEG", quality=_JPEG_QUALITY)


def _has_side(copy: Path, side: int) -> bool:
    """Return whether an image exists whose shorter side has this many pixels."""
    try:
        return copy.exists() and min(image_size(read_image_bytes(copy), str(copy))) == side
    except ImageError:
        return False


def _is_unicode(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _manifest_row(file_name: str, row: DatasetRow) -> dict[str, Any]:
    return {
        "file_name": file_name,
        "captions": list(row.captions),
        **({"split": row.split} if row.split is not None else {}),
        **({"instance": row.instance} if row.instance is not None else {}),
        **row.metadata,
    }


def _nothing_found(missing: Sequence[Path]) -> str:
    if not missing:
        return "the annotations name no image"
    return (
        f"none of the {len(missing):,} images was found (the first: {missing[0]}); unpack the "
        "images into the folder, or link them there"
    )


def _warnings(missing: Sequence[Path], counts: SplitCounts, published: SplitCounts) -> list[str]:
    warnings = []
    if missing:
        printable = [path.name.encode("utf-8", "backslashreplace").decode() for path in missing]
        names = first_n_and_more(printable, _SHOWN_MISSING)
        warnings.append(f"{len(missing):,} images are missing and left out: {names}")
    for split, number in published.items():
        if counts.get(split, 0) != number:
            warnings.append(
                f"split {split} has {counts.get(split, 0):,} images, but {number:,} were published"
            )
    return warnings
