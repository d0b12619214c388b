"""The images of a published gallery: their rows, thumbnails and, if wanted, files."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dualpath.data.images import open_image
from dualpath.errors import ImageError
from dualpath.gallery.filters import Field
from dualpath.gallery.gallery import Gallery
from dualpath.gallery.schema import COLUMNS, IMAGES, VECTOR, GalleryImage, to_image
from dualpath.types import Progress, Vectors

_ID_LENGTH = 16  # hexadecimal digits of the hash of the content
_WEBP_QUALITY = 80
_IN_FLIGHT = 64  # thumbnails


@dataclass(frozen=True)
class PublishedImage:
    """An image, under the id that the page uses.

    Attributes:
        id: from the content of the file, so that it says nothing about folders and is the same when
            the gallery is published again.
        image: of the gallery.
    """

    id: str
    image: GalleryImage


def read_images(gallery: Gallery) -> tuple[list[PublishedImage], Vectors]:
    """Return all images of a gallery, sorted by name, and their vectors, (images, dim)."""
    images: list[GalleryImage] = []
    vectors: list[Vectors] = [np.empty((0, gallery.info.dim), np.float32)]
    columns = list(COLUMNS[IMAGES])
    for batch in gallery.store.scan(IMAGES, [*columns, VECTOR]):
        images += [to_image(row) for row in batch.select(columns).to_pylist()]
        flat = batch.column(VECTOR).flatten().to_numpy(zero_copy_only=False)
        vectors.append(flat.reshape(-1, gallery.info.dim).astype(np.float32))
    order = sorted(range(len(images)), key=lambda number: (images[number].name, images[number].id))
    return list(_with_ids([images[number] for number in order])), np.concatenate(vectors)[order]


def write_thumbnails(
    images: Sequence[PublishedImage],
    folder: Path,
    *,
    roots: Sequence[Path],
    size: int,
    originals: bool,
    workers: int,
    progress: Progress,
) -> tuple[dict[str, str], dict[str, str]]:
    """Write a WebP for each image, without the metadata of its file.

    Args:
        images: of the gallery.
        folder: to write.
        roots: folders in which the files must be.
        size: largest longer side in pixels.
        originals: whether to copy the image files too.
        workers: threads.
        progress: called with the number of images finished since the last call.

    Returns:
        The names of the copied files by id, and the reasons of the images that cannot be read by
        id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    copied: dict[str, str] = {}
    broken: dict[str, str] = {}

    def write(published: PublishedImage) -> None:
        path = Path(os.path.realpath(published.image.path))
        progress(1)
        if not any(path.is_relative_to(root) for root in roots):
            broken[published.id] = f"{published.image.path}: outside of the indexed folders"
            return
        try:
            image = open_image(path, side=2 * size)
            image.thumbnail((size, size), Image.Resampling.LANCZOS)
            image.save(folder / f"{published.id}.webp", "WEBP", quality=_WEBP_QUALITY)
            if originals:
                name = f"{published.id}-original{path.suffix.lower()}"
                shutil.copyfile(path, folder / name)
                copied[published.id] = name
        except ImageError as error:
            broken[published.id] = str(error)

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(images), _IN_FLIGHT):
            list(pool.map(write, images[start : start + _IN_FLIGHT]))
    return copied, broken


def image_rows(
    images: Sequence[PublishedImage], fields: Mapping[str, Field], originals: Mapping[str, str]
) -> str:
    """Return ``images.json``: what the page knows about each image, in the order of the vectors."""
    return json.dumps(
        [
            {
                "id": published.id,
                "name": published.image.name,
                "width": published.image.width,
                "height": published.image.height,
                "captions": published.image.captions,
                "metadata": _metadata(published.image.metadata, fields),
                **({"original": originals[published.id]} if published.id in originals else {}),
            }
            for published in images
        ],
        ensure_ascii=False,
        separators=(",", ":"),
        default=str,
    )


def _metadata(metadata: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    """Return metadata with the values that filters compare: a text field holds texts."""
    return {
        key: str(value)
        if key in fields and fields[key].kind == "text" and isinstance(value, bool | int | float)
        else value
        for key, value in metadata.items()
    }


def _with_ids(images: Sequence[GalleryImage]) -> Iterator[PublishedImage]:
    seen: dict[str, int] = {}
    for image in images:
        content = image.content[:_ID_LENGTH]
        seen[content] = seen.get(content, 0) + 1
        copy = f"-{seen[content]}" if seen[content] > 1 else ""
        yield PublishedImage(f"{content}{copy}", image)
