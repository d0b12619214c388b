"""What every source gives: rows of a manifest with the images they need, and their counts."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from dualpath.data.images import image_state, open_image
from dualpath.data.manifest import write_manifest
from dualpath.errors import DatasetError, ImageError

Counts = dict[str, int]


@dataclass(frozen=True)
class DatasetRow:
    """An image of a data set. ``name`` is its place below the output folder where it is written.

    ``instance`` none: the image is its own. ``split`` none: drawn when the manifest is read.
    """

    name: str
    path: Path
    captions: tuple[str, ...]
    split: str | None
    instance: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedDataset:
    """What was written: the manifest, images a split, and what a person should know."""

    manifest: Path
    images: Counts
    warnings: list[str]


def write_rows(
    rows: Sequence[DatasetRow],
    out: Path,
    *,
    published: Counts | None = None,
    resize: int | None = None,
    square: bool = False,
    workers: int = 2,
    progress: Callable[[int], None] = lambda _: None,
) -> PreparedDataset:
    """Write a manifest of rows whose images exist, with the images in place or resized.

    Args:
        rows: what a source read.
        out: folder to write; images in place are named by the way to them from here.
        published: images a split as published; what differs is a warning.
        resize: write copies whose shorter side has so many pixels; copies that are there already
            are left, so an interrupted call continues.
        square: copies are squashed to the square (the paper's way with CUHK-PEDES).
        workers: processes that resize.
        advance: called with the number of images done since the last call.

    Raises:
        SourceError: no image exists, or one cannot be decoded.
    """
    there = [image_state(row.path) is not None for row in rows]
    present = [row for row, is_there in zip(rows, there, strict=True) if is_there]
    missing = [row.path for row, is_there in zip(rows, there, strict=True) if not is_there]
    if not present:
        raise DatasetError(
            f"none of the {len(rows):,} images is there (the first: {missing[0]}); unpack the "
            "images into the folder, or link them there"
            if missing
            else "the annotations name no image"
        )
    out.mkdir(parents=True, exist_ok=True)
    if resize is None:
        names = [Path(os.path.relpath(row.path, out)).as_posix() for row in present]
    else:
        names = [f"images/{Path(row.name).with_suffix('.jpg').as_posix()}" for row in present]
        _resize_all([row.path for row in present], names, out, resize, square, workers, progress)
    manifest = write_manifest(
        out,
        (
            {
                "file_name": name,
                "captions": list(row.captions),
                **({"split": row.split} if row.split is not None else {}),
                **({"instance": row.instance} if row.instance is not None else {}),
                **row.metadata,
            }
            for name, row in zip(names, present, strict=True)
        ),
    )
    counts: Counts = dict(Counter(row.split or "to be drawn" for row in present))
    return PreparedDataset(manifest, counts, _warnings(missing, counts, published or {}))


def _warnings(missing: Sequence[Path], counts: Counts, published: Counts) -> list[str]:
    warnings = []
    if missing:
        shown = ", ".join(path.name for path in missing[:5])
        more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        warnings.append(f"{len(missing):,} images are missing and left out: {shown}{more}")
    for split, number in published.items():
        if counts.get(split, 0) != number:
            warnings.append(
                f"split {split} has {counts.get(split, 0):,} images, published are {number:,}"
            )
    return warnings


def _resize_all(
    paths: Sequence[Path],
    names: Sequence[str],
    out: Path,
    side: int,
    square: bool,
    workers: int,
    progress: Callable[[int], None],
) -> None:
    for folder in {(out / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    wanted = [out / name for name in names]
    resize = partial(resize_image, side=side, square=square)
    with ProcessPoolExecutor(workers) as pool:
        for _ in pool.map(resize, paths, wanted, chunksize=16):
            progress(1)


def resize_image(path: Path, target: Path, *, side: int, square: bool) -> None:
    """Write a copy of an image with its shorter side, or both if ``square``, of ``side`` pixels.

    Raises:
        SourceError: it is no sound image.
    """
    if target.exists():
        return
    try:
        image = open_image(path)
    except ImageError as error:
        raise DatasetError(str(error)) from error
    factor = side / min(image.size)
    width, height = (side if square else round(factor * length) for length in image.size)
    unfinished = target.with_suffix(".partial")
    image.resize((width, height), Image.Resampling.BICUBIC).save(unfinished, "JPEG", quality=95)
    unfinished.replace(target)
