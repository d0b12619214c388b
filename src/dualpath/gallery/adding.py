"""Filling a gallery from folders of pictures, so that it can be killed at any moment."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch

from dualpath.data.items import Item
from dualpath.data.manifest import read_pictures
from dualpath.data.pictures import (
    PictureError,
    picture_hash,
    picture_size,
    picture_state,
    read_picture,
)
from dualpath.embedding import DualPath
from dualpath.gallery.errors import GalleryError
from dualpath.gallery.filters import Field
from dualpath.gallery.gallery import Gallery
from dualpath.gallery.rows import Picture, picture_id, to_rows, words_of
from dualpath.gallery.store import Store
from dualpath.vectors import Advance, Vectors

_CHUNK = 64  # pictures decoded ahead
_ASKED = 1_000  # pictures that are looked for in the gallery at once
_WRITTEN = 128  # pictures in one write: what a kill loses


@dataclass
class Added:
    """What an indexing run did. ``broken``: by name, what is wrong with what was left out."""

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    broken: dict[str, str] = field(default_factory=dict)


class _Known(NamedTuple):
    """What the gallery holds under an id."""

    size: int
    modified: int
    content: str
    captions: str
    metadata: str


class Read(NamedTuple):
    """A picture that was read; ``rendered`` is none where the gallery has its vector already.

    vector: (dim,) float32. captions: (its captions, dim) float32. Where they were embedded
    elsewhere; else none.
    """

    picture: Picture
    rendered: torch.Tensor | None
    vector: Vectors | None = None
    captions: Vectors | None = None


class Written(NamedTuple):
    """A picture that was read, embedded and written elsewhere."""


# A path, what the manifest says of it, and what the gallery knows.
Work = tuple[Path, Item, _Known | None]
# What became of it; none: nothing, as the gallery has it.
Outcome = Read | Written | PictureError | None


def add_folder(
    gallery: Gallery, folder: Path, roots: Sequence[Path], advance: Advance, *, ray: bool
) -> Added:
    """Index a folder: see :meth:`Gallery.add`."""
    folder = folder.resolve()
    allowed = [folder, *(root.resolve() for root in roots)]
    for root in allowed:
        if not root.is_dir():
            raise GalleryError(f"{root}: no such folder")
    items = read_pictures(folder).items
    may_enter = _named(items, folder, allowed, Added())
    gallery.learn(allowed, ((item.file_name, _metadata(item)) for _, item in may_enter))
    added, done = Added(), 0
    work = _work(_named(items, folder, allowed, added), gallery.store)
    pending: list[Read] = []
    outcomes = _on_ray(work, gallery) if ray else _ahead(work, gallery.model)
    for (_, item, there), outcome in outcomes:
        if isinstance(outcome, PictureError):
            added.broken[item.file_name] = str(outcome)
        elif outcome is None:
            added.unchanged += 1
        else:
            if isinstance(outcome, Read):
                pending.append(outcome)
            added.new += there is None
            added.changed += there is not None
        if len(pending) == _WRITTEN:
            write(gallery.store, gallery.filled.fields, gallery.model, pending)
            pending = []
        advance(1)
        done += 1
    write(gallery.store, gallery.filled.fields, gallery.model, pending)
    advance(len(items) - done)
    if added.new or added.changed:
        with gallery.store.writing():
            gallery.store.settle()
    return added


def add_picture(
    gallery: Gallery, path: Path, captions: tuple[str, ...], metadata: dict[str, Any]
) -> Picture:
    """Index one picture file: see :meth:`Gallery.add_picture`."""
    item = Item(path.name, path, captions, instance=path.name, split=None, row=0, metadata=metadata)
    gallery.learn([], [(item.file_name, item.metadata)])
    outcome = _look(path, item, None, gallery.model)
    assert outcome is not None, "nothing is known of it"
    write(gallery.store, gallery.filled.fields, gallery.model, [outcome])
    return outcome.picture


def _named(
    items: Sequence[Item], folder: Path, allowed: Sequence[Path], added: Added
) -> Iterator[tuple[Path, Item]]:
    """Yield the pictures that may be indexed by their absolute paths; tell of the others."""
    seen: set[bytes] = set()
    for item in items:
        path = Path(os.path.normpath(folder / item.file_name))
        digest = hashlib.blake2b(
            str(path).encode("utf-8", "surrogatepass"), digest_size=16
        ).digest()
        if digest in seen:
            added.broken[item.file_name] = f"{item.file_name}: named twice; the first counts"
        elif not _encodable(str(path)):
            name = item.file_name.encode("utf-8", "backslashreplace").decode()
            added.broken[name] = f"{name}: the name is no valid Unicode; rename the file"
        elif not any(path.resolve().is_relative_to(root) for root in allowed):
            added.broken[item.file_name] = (
                f"{path}: lies outside of {folder}; allow its folder with --root"
            )
        else:
            seen.add(digest)
            yield path, item


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _metadata(item: Item) -> dict[str, Any]:
    """Return an item's metadata, with its instance where that is not the picture itself."""
    own = {key: value for key, value in item.metadata.items() if value is not None}
    return own if item.instance == item.file_name else {"instance": item.instance, **own}


def _work(named: Iterator[tuple[Path, Item]], store: Store) -> Iterator[Work]:
    """Put beside each picture what the gallery knows of it, asking for many at a time."""
    while chunk := {picture_id(path): (path, item) for path, item in islice(named, _ASKED)}:
        rows = store.get("pictures", "id", list(chunk))
        known = {row["id"]: _Known(*(row[name] for name in _Known._fields)) for row in rows}
        yield from ((path, item, known.get(one)) for one, (path, item) in chunk.items())


def _ahead(work: Iterator[Work], model: DualPath) -> Iterator[tuple[Work, Outcome]]:
    """Read chunk after chunk in threads, one ahead of what is asked for."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def begin() -> list[tuple[Work, Future[Read | PictureError | None]]]:
            return [(one, pool.submit(read, one, model)) for one in islice(work, _CHUNK)]

        coming = begin()
        while coming:
            current, coming = coming, begin()
            yield from ((one, future.result()) for one, future in current)


def _on_ray(work: Iterator[Work], gallery: Gallery) -> Iterator[tuple[Work, Outcome]]:
    """Read and embed on a Ray cluster, which also writes if the store takes many writers."""
    try:
        from dualpath.gallery.cluster import read_on_ray
    except ImportError as error:
        raise GalleryError("--ray needs Ray: pip install 'dualpath[scale]'") from error
    return read_on_ray(work, gallery)


def read(work: Work, model: DualPath) -> Read | PictureError | None:
    """Read a picture as far as needed; none if the gallery has it as it is."""
    try:
        return _look(*work, model)
    except PictureError as error:
        return error


def _no_file(path: Path) -> NoReturn:
    raise PictureError(f"{path}: cannot be read (there is no such file)")


def _look(path: Path, item: Item, known: _Known | None, model: DualPath) -> Read | None:
    size, modified = picture_state(path) or _no_file(path)
    told = Picture(
        id=picture_id(path),
        path=path,
        name=item.file_name,
        size=size,
        modified=modified,
        width=0,
        height=0,
        content="",
        captions=item.captions,
        metadata=_metadata(item),
    )
    same_words = known is not None and words_of(told) == (known.captions, known.metadata)
    if known and same_words and (told.size, told.modified) == (known.size, known.modified):
        return None
    content = read_picture(path)
    hashed = picture_hash(content)
    same_content = known is not None and hashed == known.content
    if same_content and same_words:
        return None
    width, height = picture_size(content, str(path))
    picture = replace(told, width=width, height=height, content=hashed)
    decoded = model.decode(content, str(path))  # a broken picture is told of, new or not
    return Read(picture, None if same_content else model.render(decoded))


def write(store: Store, fields: Mapping[str, Field], model: DualPath, read: Sequence[Read]) -> None:
    """Embed and write pictures: captions first, as a picture's row says that it is done."""
    if not read:
        return
    pictures = [one.picture for one in read]
    vectors = _vectors(store, model, read)
    captions = embed_captions(model, [one for one in read if one.captions is None])
    captions |= {one.picture.id: one.captions for one in read if one.captions is not None}
    of_captions = np.concatenate([captions[picture.id] for picture in pictures])
    rows, ids = to_rows(pictures, vectors, of_captions, fields), [one.id for one in pictures]
    with store.writing():
        kept = set(rows.captions["id"].to_pylist())
        old = [row["id"] for row in store.get("captions", "picture", ids)]
        store.delete("captions", "id", [one for one in old if one not in kept])
        store.upsert("captions", rows.captions)
        store.upsert("pictures", rows.pictures)


def embed_captions(model: DualPath, read: Sequence[Read]) -> dict[str, Vectors]:
    """Embed the captions of pictures: by their ids, (captions, dim) float32."""
    counts = [len(one.picture.captions) for one in read]
    vectors = model.embed_texts([caption for one in read for caption in one.picture.captions])
    own = np.split(vectors, np.cumsum(counts)[:-1])
    return {one.picture.id: part for one, part in zip(read, own, strict=False)}


def _vectors(store: Store, model: DualPath, read: Sequence[Read]) -> Vectors:
    """Embed what is new to the gallery; pictures of a content it knows keep their vector."""
    contents = sorted({one.picture.content for one in read})
    there = store.get("pictures", "content", contents, vectors=True)
    vectors = {row["content"]: np.asarray(row["vector"], np.float32) for row in there}
    vectors |= {one.picture.content: one.vector for one in read if one.vector is not None}
    fresh = {
        one.picture.content: one.rendered
        for one in read
        if one.picture.content not in vectors and one.rendered is not None
    }
    embedded = model.embed_rendered(list(fresh.values()))
    vectors |= dict(zip(fresh, embedded, strict=True))
    return np.stack([vectors[one.picture.content] for one in read])
