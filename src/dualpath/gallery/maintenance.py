"""Maintaining a gallery: removing images, comparing with the disk, verifying, exporting."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dualpath.data.images import image_hash, image_state, read_image_bytes
from dualpath.errors import GalleryError, ImageError
from dualpath.gallery.filters import Field
from dualpath.gallery.schema import CAPTIONS, COLUMNS, IMAGES, OWNER, VECTOR
from dualpath.gallery.stores.base import Store
from dualpath.types import Progress
from dualpath.utils.files import atomic_path

_DELETE = 10_000  # images deleted in one write
_LENGTH_TOLERANCE = 1e-3  # of a unit vector


def remove(store: Store, targets: Iterable[str | Path]) -> int:
    """Remove images.

    Args:
        store: of the gallery.
        targets: ids of images, image files, or folders of images.

    Returns:
        The number of images removed.
    """
    names = {str(target) for target in targets}
    by_id = [row["id"] for row in store.get(IMAGES, "id", sorted(names))]
    names -= set(by_id)
    # A symbolic link is found by its own path and by the path that it points to.
    folders = {Path(name).resolve() for name in names}
    folders |= {Path(os.path.normpath(Path.cwd() / name)) for name in names}
    by_path = [
        identifier
        for identifier, path in (_image_paths(store) if names else ())
        if any(path.is_relative_to(folder) for folder in folders)
    ]
    _delete_images(store, by_id + by_path)
    return len(by_id) + len(by_path)


def sync(store: Store, roots: Sequence[Path], progress: Progress) -> int:
    """Remove images whose files do not exist, and captions whose images do not exist.

    Args:
        store: of the gallery.
        roots: the indexed folders.
        progress: called with the number of images checked since the last call.

    Returns:
        The number of images removed.

    Raises:
        GalleryError: an indexed folder does not exist; nothing is removed.
    """
    for root in roots:
        if not root.is_dir():
            raise GalleryError(
                f"{root}: the folder does not exist; mount its disk, or remove its images with "
                f"dualpath gallery remove GALLERY {root}"
            )
    missing: list[str] = []
    removed = removed_captions = 0
    for identifier, path in _image_paths(store):
        if image_state(path) is None:
            missing.append(identifier)
        if len(missing) == _DELETE:
            _delete_images(store, missing)
            removed, missing = removed + len(missing), []
        progress(1)
    _delete_images(store, missing)
    removed += len(missing)
    for owners in _caption_owners(store):
        orphans = _orphans(store, owners)
        with store.write_lock():
            store.delete(CAPTIONS, "id", orphans)
        removed_captions += len(orphans)
    if removed or removed_captions:
        with store.write_lock():
            store.optimize()
    return removed


def verify(store: Store, dim: int, progress: Progress) -> list[str]:
    """Check that rows, captions and vectors are consistent and that files have not changed.

    Args:
        store: of the gallery.
        dim: length of the vectors.
        progress: called with the number of images checked since the last call.

    Returns:
        The problems, one line each.
    """
    problems: dict[str, None] = {}  # ordered, without duplicates
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in store.scan(IMAGES, ["id", "path", "content", "captions", VECTOR]):
            paths, contents = (batch.column(name).to_pylist() for name in ("path", "content"))
            found = [*_bad_vectors(batch, paths, dim), *_bad_rows(store, batch)]
            for problem in pool.map(_file_problem, paths, contents):
                found += [problem] if problem else []
                progress(1)
            problems |= dict.fromkeys(found)
    for owners in _caption_owners(store):
        for caption in _orphans(store, owners):
            problem = f"{owners[caption]}: has captions but no image; run dualpath gallery sync"
            problems[problem] = None
    return list(problems)


def export(store: Store, dim: int, path: Path) -> int:
    """Write all images with their vectors to a Parquet file. Return the number of images."""
    import pyarrow.parquet as pq  # a search should start without it

    columns = [*COLUMNS[IMAGES], VECTOR]
    schema = pa.schema(
        [
            *((name, kind) for name, kind in COLUMNS[IMAGES].items() if name != "captions"),
            ("captions", pa.list_(pa.string())),
            (VECTOR, pa.list_(pa.float32(), dim)),
        ]
    )
    count = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for batch in store.scan(IMAGES, columns):
            table = pa.table({name: batch.column(name) for name in columns})
            captions = [json.loads(text) for text in table["captions"].to_pylist()]
            table = table.drop_columns("captions").append_column("captions", [captions])
            writer.write_table(table.select(schema.names).cast(schema))
            count += table.num_rows
    return count


def facets(
    store: Store, fields: Mapping[str, Field], max_values: int
) -> dict[str, list[tuple[Any, int]]]:
    """Count the values of each field, the most frequent first.

    Fields without values and fields with more than ``max_values`` different values are left out.
    """
    facets = {}
    for key, field in fields.items():
        batches = store.scan(IMAGES, [field.column])
        column = pa.chunked_array([batch.column(field.column) for batch in batches] or [[]])
        counts = column.drop_null().value_counts()  # one call: Python is slow for a batch each
        if 0 < len(counts) <= max_values:
            values, numbers = (counts.field(part).to_pylist() for part in ("values", "counts"))
            facets[key] = Counter(dict(zip(values, numbers, strict=True))).most_common()
    return facets


def _delete_images(store: Store, ids: Sequence[str]) -> None:
    """Delete images before their captions: searches ignore captions without an image."""
    with store.write_lock():
        store.delete(IMAGES, "id", ids)
        store.delete(CAPTIONS, OWNER, ids)


def _image_paths(store: Store) -> Iterator[tuple[str, Path]]:
    for batch in store.scan(IMAGES, ["id", "path"]):
        paths = map(Path, batch.column("path").to_pylist())
        yield from zip(batch.column("id").to_pylist(), paths, strict=True)


def _caption_owners(store: Store) -> Iterator[dict[str, str]]:
    """Yield the ids of captions with the ids of their images, a batch at a time."""
    for batch in store.scan(CAPTIONS, ["id", OWNER]):
        ids, owners = (batch.column(name).to_pylist() for name in ("id", OWNER))
        yield dict(zip(ids, owners, strict=True))


def _orphans(store: Store, owners: Mapping[str, str]) -> list[str]:
    """Return the captions whose images do not exist."""
    images = store.get(IMAGES, "id", sorted(set(owners.values())))
    present = {row["id"] for row in images}
    return [caption for caption, owner in owners.items() if owner not in present]


def _bad_rows(store: Store, batch: pa.RecordBatch) -> list[str]:
    """Return problems with duplicate ids and with the number of captions."""
    ids, captions = (batch.column(name).to_pylist() for name in ("id", "captions"))
    rows = Counter(row["id"] for row in store.get(IMAGES, "id", ids))
    stored = Counter(row[OWNER] for row in store.get(CAPTIONS, OWNER, ids))
    problems = [f"{identifier}: stored {n} times" for identifier, n in rows.items() if n > 1]
    for identifier, text in zip(ids, captions, strict=True):
        expected = len(json.loads(text))
        if stored[identifier] != expected:
            problems.append(
                f"{identifier}: {stored[identifier]} of {expected} captions are stored; remove "
                "the image and add it again"
            )
    return problems


def _bad_vectors(batch: pa.RecordBatch, paths: Sequence[str], dim: int) -> list[str]:
    flat = batch.column(VECTOR).flatten().to_numpy(zero_copy_only=False)
    lengths = np.linalg.norm(flat.reshape(-1, dim), axis=1)
    return [
        f"{path}: the length of its vector is {length:.3f} instead of 1"
        for path, length in zip(paths, lengths, strict=True)
        if not abs(length - 1) < _LENGTH_TOLERANCE  # also true of NaN
    ]


def _file_problem(path: str, content: str) -> str | None:
    try:
        if image_hash(read_image_bytes(Path(path))) != content:
            return f"{path}: the file has changed; run dualpath gallery add"
    except ImageError as error:
        return f"{error}; run dualpath gallery sync"
    return None
