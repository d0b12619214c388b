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

_SHOWN = 20


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
    gone, kept = [], set()
    for picture, path in _paths(store):
        if picture_state(path) is not None:
            kept.add(picture)
        else:
            gone.append(picture)
        advance(1)
    _remove_ids(store, gone)
    lost = [caption for caption, picture in _captions(store) if picture not in kept]
    with store.writing():
        store.delete("captions", "id", lost)
        if gone or lost:
            store.settle()
    return len(gone)


def verify(store: Store, dim: int, advance: Advance) -> list[str]:
    """Check ids, captions and vectors against each other, and every file against its hash."""
    problems = []
    expected: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    columns = ("id", "path", "content", "captions")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in store.scan("pictures", [*columns, VECTOR]):
            ids, paths, contents, captions = (batch.column(c).to_pylist() for c in columns)
            rows.update(ids)
            for picture, told in zip(ids, captions, strict=True):
                expected[picture] = len(json.loads(told))
            problems += _bad_vectors(batch, paths, dim)
            for problem in pool.map(_file_problem, paths, contents):
                problems += [problem] if problem else []
                advance(1)
    there = Counter(picture for _, picture in _captions(store))
    problems += [f"{picture}: is there {n} times" for picture, n in rows.items() if n > 1]
    for picture in expected.keys() | there.keys():
        if picture not in expected:
            problems.append(f"{picture}: captions without their picture; run dualpath gallery sync")
        elif there[picture] != expected[picture]:
            problems.append(
                f"{picture}: {there[picture]} of {expected[picture]} captions; "
                "remove the picture and add it again"
            )
    return problems


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


def _captions(store: Store) -> Iterator[tuple[str, str]]:
    for batch in store.scan("captions", ["id", "picture"]):
        yield from zip(
            batch.column("id").to_pylist(), batch.column("picture").to_pylist(), strict=True
        )


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
