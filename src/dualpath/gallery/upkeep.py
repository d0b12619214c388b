"""Looking after a gallery: removing, comparing with the disk, checking, writing out."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dualpath.data.pictures import PictureError, picture_hash, picture_state, read_picture
from dualpath.gallery.errors import GalleryError
from dualpath.gallery.filters import Field
from dualpath.gallery.rows import COLUMNS, VECTOR
from dualpath.gallery.store import Store
from dualpath.vectors import Advance

_AT_ONCE = 10_000  # pictures removed in one write


def remove(store: Store, what: Iterable[str | Path]) -> int:
    """Remove pictures by id, by path, or all below a folder; return how many went."""
    wanted = {str(one) for one in what}
    by_id = [row["id"] for row in store.get("pictures", "id", sorted(wanted))]
    wanted -= set(by_id)
    folders = {Path(one).resolve() for one in wanted} | {
        Path(os.path.normpath(Path.cwd() / one)) for one in wanted
    }
    ids = by_id + [
        picture
        for picture, path in (_paths(store) if wanted else ())
        if any(path.is_relative_to(folder) for folder in folders)
    ]
    _remove_ids(store, ids)
    return len(ids)


def sync(store: Store, roots: Sequence[Path], advance: Advance) -> int:
    """Remove the pictures whose files are gone, and captions that lost their picture."""
    for root in roots:
        if not root.is_dir():
            raise GalleryError(
                f"{root}: the folder is gone; is its disk mounted? If it went for good: "
                f"dualpath gallery remove GALLERY {root}"
            )
    gone: list[str] = []
    removed = 0
    for picture, path in _paths(store):
        if picture_state(path) is None:
            gone.append(picture)
        if len(gone) == _AT_ONCE:
            _remove_ids(store, gone)
            removed, gone = removed + len(gone), []
        advance(1)
    _remove_ids(store, gone)
    removed, lost = removed + len(gone), 0
    for owners in _captions(store):
        orphans = [caption for caption, there in _owned(store, owners) if not there]
        with store.writing():
            store.delete("captions", "id", orphans)
        lost += len(orphans)
    if removed or lost:
        with store.writing():
            store.settle()
    return removed


def verify(store: Store, dim: int, advance: Advance) -> list[str]:
    """Check ids, captions and vectors against each other, and every file against its hash."""
    problems: dict[str, None] = {}  # in order, each once
    columns = ("id", "path", "content", "captions")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in store.scan("pictures", [*columns, VECTOR]):
            ids, paths, contents, captions = (batch.column(c).to_pylist() for c in columns)
            rows = Counter(row["id"] for row in store.get("pictures", "id", ids))
            there = Counter(row["picture"] for row in store.get("captions", "picture", ids))
            found = _bad_vectors(batch, paths, dim)
            found += [f"{picture}: is there {n} times" for picture, n in rows.items() if n > 1]
            for picture, told in zip(ids, captions, strict=True):
                if there[picture] != len(json.loads(told)):
                    found.append(
                        f"{picture}: {there[picture]} of {len(json.loads(told))} captions; "
                        "remove the picture and add it again"
                    )
            for problem in pool.map(_file_problem, paths, contents):
                found += [problem] if problem else []
                advance(1)
            problems |= dict.fromkeys(found)
    for owners in _captions(store):
        problems |= {
            f"{owners[caption]}: captions without their picture; run dualpath gallery sync": None
            for caption, there in _owned(store, owners)
            if not there
        }
    return list(problems)


def export(store: Store, dim: int, path: Path) -> int:
    """Write all pictures to a Parquet file, whole or not at all."""
    columns = list(COLUMNS["pictures"])
    wanted = pa.schema(
        [
            *((c, t) for c, t in COLUMNS["pictures"].items() if c != "captions"),
            ("captions", pa.list_(pa.string())),
            (VECTOR, pa.list_(pa.float32(), dim)),
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, count = path.with_name(path.name + ".partial"), 0
    with pq.ParquetWriter(partial, wanted) as writer:
        for batch in store.scan("pictures", [*columns, VECTOR]):
            table = pa.table({name: batch.column(name) for name in [*columns, VECTOR]})
            captions = [json.loads(told) for told in table["captions"].to_pylist()]
            table = table.drop_columns("captions").append_column("captions", [captions])
            writer.write_table(table.select(wanted.names).cast(wanted))
            count += table.num_rows
    partial.replace(path)
    return count


def facets(
    store: Store, fields: Mapping[str, Field], most: int
) -> dict[str, list[tuple[Any, int]]]:
    """Count the values of each field; those with more than ``most`` different ones are left out."""
    counts: dict[str, Counter[Any]] = {key: Counter() for key in fields}
    if not fields:
        return {}
    for batch in store.scan("pictures", [field.column for field in fields.values()]):
        for key in list(counts):
            for cell in batch.column(fields[key].column).value_counts():
                value = cell["values"].as_py()
                if value is not None:
                    counts[key][value] += cell["counts"].as_py()
            if len(counts[key]) > most:
                del counts[key]
    return {key: count.most_common() for key, count in counts.items() if count}


def _remove_ids(store: Store, ids: Sequence[str]) -> None:
    """Remove pictures first: a caption without one is never shown, and ``sync`` finds it."""
    with store.writing():
        store.delete("pictures", "id", ids)
        store.delete("captions", "picture", ids)


def _paths(store: Store) -> Iterator[tuple[str, Path]]:
    for batch in store.scan("pictures", ["id", "path"]):
        paths = map(Path, batch.column("path").to_pylist())
        yield from zip(batch.column("id").to_pylist(), paths, strict=True)


def _captions(store: Store) -> Iterator[dict[str, str]]:
    """Go through the captions, some at a time: their ids with those of their pictures."""
    for batch in store.scan("captions", ["id", "picture"]):
        ids, pictures = (batch.column(name).to_pylist() for name in ("id", "picture"))
        yield dict(zip(ids, pictures, strict=True))


def _owned(store: Store, owners: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Tell of each caption whether its picture is there."""
    pictures = store.get("pictures", "id", sorted(set(owners.values())))
    there = {row["id"] for row in pictures}
    yield from ((caption, picture in there) for caption, picture in owners.items())


def _bad_vectors(batch: pa.RecordBatch, paths: Sequence[str], dim: int) -> list[str]:
    flat = batch.column(VECTOR).flatten().to_numpy(zero_copy_only=False)
    lengths = np.linalg.norm(flat.reshape(-1, dim), axis=1)
    return [
        f"{path}: its vector has the length {length:.3f}, not 1"
        for path, length in zip(paths, lengths, strict=True)
        if not abs(length - 1) < 1e-3
    ]


def _file_problem(path: str, content: str) -> str | None:
    try:
        if picture_hash(read_picture(Path(path))) != content:
            return f"{path}: has changed since; run dualpath gallery add"
    except PictureError as error:
        return f"{error}; run dualpath gallery sync"
    return None
