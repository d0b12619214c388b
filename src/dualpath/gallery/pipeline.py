"""The steps from an image file to the rows of a gallery: prepare, embed, write."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dualpath.data.images import image_hash, image_size, image_state, read_image_bytes
from dualpath.data.json_values import gallery_metadata
from dualpath.data.record import ImageRecord
from dualpath.errors import ImageError
from dualpath.gallery.filters import Field
from dualpath.gallery.schema import (
    CAPTIONS,
    IMAGES,
    OWNER,
    VECTOR,
    GalleryImage,
    image_id,
    serialize_text,
    to_rows,
)
from dualpath.gallery.stores.base import Store
from dualpath.types import Pixels, Vectors

if TYPE_CHECKING:
    from dualpath.inference.model import DualPath


class StoredState(NamedTuple):
    """What a gallery has stored about an image, to find out whether the image has changed.

    The attributes are columns of the image table.
    """

    size: int
    modified: int
    content: str
    captions: str
    metadata: str


class IndexTask(NamedTuple):
    """An image to index.

    Attributes:
        path: the absolute path of the file.
        record: the image in the manifest.
        stored: what the gallery has stored about it. None: the image is new.
    """

    path: Path
    record: ImageRecord
    stored: StoredState | None


class PreparedImage(NamedTuple):
    """An image that must be written.

    Attributes:
        image: the new row.
        pixels: preprocessed, (views, 3, height, width) uint8. None if the gallery has the vector
            of this content already, or if ``vector`` is given.
        vector: (dim,) float32. None if it is not yet embedded.
        caption_vectors: (captions, dim) float32. None if they are not yet embedded.
    """

    image: GalleryImage
    pixels: Pixels | None
    vector: Vectors | None = None
    caption_vectors: Vectors | None = None


class RemoteResult(NamedTuple):
    """An image that another process has prepared, embedded and written."""


# An image that is broken is an error. An image that has not changed is None.
IndexResult = PreparedImage | RemoteResult | ImageError | None


def try_prepare(task: IndexTask, model: "DualPath") -> PreparedImage | ImageError | None:
    """Return the result of :func:`prepare_image`, or the error of a broken image."""
    try:
        return prepare_image(task, model)
    except ImageError as error:
        return error


def prepare_image(task: IndexTask, model: "DualPath") -> PreparedImage | None:
    """Read and decode an image if the gallery does not have it in this state.

    Returns:
        The image, or None if file, captions and metadata have not changed.

    Raises:
        ImageError: the file is missing or cannot be decoded.
    """
    image, stored = _describe(task.path, task.record), task.stored
    if stored is None:
        return _decode(image, read_image_bytes(task.path), model, preprocess=True)
    same_text = serialize_text(image) == (stored.captions, stored.metadata)
    if same_text and (image.size, image.modified) == (stored.size, stored.modified):
        return None
    content = read_image_bytes(task.path)
    same_content = image_hash(content) == stored.content
    if same_text and same_content:
        return None
    return _decode(image, content, model, preprocess=not same_content)


def prepare_new_image(path: Path, record: ImageRecord, model: "DualPath") -> PreparedImage:
    """Read and decode an image, whatever the gallery has stored about it.

    Raises:
        ImageError: the file is missing or cannot be decoded.
    """
    return _decode(_describe(path, record), read_image_bytes(path), model, preprocess=True)


def record_metadata(record: ImageRecord) -> dict[str, Any]:
    """Return the metadata of a record, with its instance if that is not the image itself."""
    metadata = gallery_metadata(record.metadata)
    if record.instance == record.file_name:
        return metadata
    return {"instance": record.instance, **metadata}


def write_images(
    store: Store,
    fields: Mapping[str, Field],
    model: "DualPath",
    prepared: Sequence[PreparedImage],
) -> None:
    """Embed images and captions and write their rows.

    Captions are written before images, because the row of an image says that it is complete.
    """
    if not prepared:
        return
    images = [one.image for one in prepared]
    vectors = _image_vectors(store, model, prepared)
    caption_vectors = embed_captions(model, [p for p in prepared if p.caption_vectors is None])
    for one in prepared:
        if one.caption_vectors is not None:
            caption_vectors[one.image.id] = one.caption_vectors
    in_order = np.concatenate([caption_vectors[image.id] for image in images])
    rows = to_rows(images, vectors, in_order, fields)
    with store.write_lock():
        new_ids = set(rows.captions["id"].to_pylist())
        stored = store.get(CAPTIONS, OWNER, [image.id for image in images])
        outdated = [row["id"] for row in stored if row["id"] not in new_ids]
        store.delete(CAPTIONS, "id", outdated)
        store.upsert(CAPTIONS, rows.captions)
        store.upsert(IMAGES, rows.images)


def embed_captions(model: "DualPath", prepared: Sequence[PreparedImage]) -> dict[str, Vectors]:
    """Embed the captions of images. Return, by image id, (captions, dim) float32."""
    counts = [len(one.image.captions) for one in prepared]
    vectors = model.embed_texts([text for one in prepared for text in one.image.captions])
    parts = np.split(vectors, np.cumsum(counts)[:-1])
    return {one.image.id: part for one, part in zip(prepared, parts, strict=False)}


def _image_vectors(store: Store, model: "DualPath", prepared: Sequence[PreparedImage]) -> Vectors:
    """Return the vectors of images, (images, dim); embed those whose content is new."""
    contents = sorted({one.image.content for one in prepared})
    stored = store.get(IMAGES, "content", contents, vectors=True)
    vectors = {row["content"]: np.asarray(row[VECTOR], np.float32) for row in stored}
    vectors |= {one.image.content: one.vector for one in prepared if one.vector is not None}
    pixels = {
        one.image.content: one.pixels
        for one in prepared
        if one.image.content not in vectors and one.pixels is not None
    }
    vectors |= dict(zip(pixels, model.embed_pixels(list(pixels.values())), strict=True))
    return np.stack([vectors[one.image.content] for one in prepared])


def _describe(path: Path, record: ImageRecord) -> GalleryImage:
    """Return what is known of an image before its file is read."""
    state = image_state(path)
    if state is None:
        raise ImageError(f"{path}: cannot be read (the file does not exist)")
    size, modified = state
    return GalleryImage(
        id=image_id(path),
        path=path,
        name=record.file_name,
        size=size,
        modified=modified,
        width=0,
        height=0,
        content="",
        captions=record.captions,
        metadata=record_metadata(record),
    )


def _decode(
    image: GalleryImage, content: bytes, model: "DualPath", *, preprocess: bool
) -> PreparedImage:
    name = str(image.path)
    width, height = image_size(content, name)
    complete = replace(image, width=width, height=height, content=image_hash(content))
    decoded = model.decode(content, name)  # in any case, to find broken images
    try:
        pixels = model.preprocess(decoded) if preprocess else None
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    return PreparedImage(complete, pixels)
