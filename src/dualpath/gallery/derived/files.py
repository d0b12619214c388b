"""The files of a derived index: a folder that is written whole, checked, and memory-mapped."""

import json
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dualpath.gallery.derived.cells import Cells
from dualpath.gallery.derived.part import Part, join
from dualpath.gallery.derived.view import View
from dualpath.gallery.schema import TableName

_FORMAT = 1
_HEADER, _CELLS, _FIELDS = "index.json", "cells.faiss", "fields.arrow"
_ARRAYS = ("row_ids", "vectors", "lines", "ends")
_PARTIAL = ".partial"
_BLOCK = 1 << 22  # bytes read at a time


@contextmanager
def new_folder(folder: Path, table: TableName) -> Iterator[Path]:
    """Yield a folder to write an index to, and put it in the place of the earlier ones.

    Only one process may write at a time. What a killed process has left is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old = list(folder.glob(f"{table}-*"))
    for path in old:
        if path.suffix == _PARTIAL:
            shutil.rmtree(path, ignore_errors=True)
    final = folder / f"{table}-{uuid.uuid4().hex[:12]}"
    partial = final.with_suffix(_PARTIAL)
    partial.mkdir()
    try:
        yield partial
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for path in old:  # other processes may have mapped these files, which then remain readable
        shutil.rmtree(path, ignore_errors=True)


def write_part(folder: Path, parts: Iterable[Part], dim: int) -> Iterator[None]:
    """Write the rows of parts to a folder, and yield after each part so that a caller can stop."""
    rows = line_bytes = 0
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in _ARRAYS}
        fields = []
        for part in parts:
            files["row_ids"].write(part.row_ids.tobytes())
            files["vectors"].write(part.vectors.tobytes())
            files["lines"].write(part.lines.tobytes())
            files["ends"].write((part.ends + line_bytes).tobytes())
            fields.append(
                Part(part.row_ids, part.vectors[:0], part.lines[:0], part.ends[:0], part.fields)
            )
            rows, line_bytes = rows + len(part), line_bytes + len(part.lines)
            yield
    columns = join(fields, dim).fields
    if columns:
        table = pa.table(dict(columns))
        with (
            pa.OSFile(str(folder / _FIELDS), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as writer,
        ):
            writer.write_table(table)


def open_part(folder: Path, dim: int) -> Part:
    """Map the rows of a folder into memory."""
    fields = {}
    if (folder / _FIELDS).exists():
        table = pa.ipc.open_file(pa.memory_map(str(folder / _FIELDS))).read_all()
        fields = {name: table.column(name) for name in table.column_names}
    return Part(
        _map(folder / "row_ids", np.uint64),
        _map(folder / "vectors", np.float32).reshape(-1, dim),
        _map(folder / "lines", np.uint8),
        _map(folder / "ends", np.int64),
        fields,
    )


def write_header(folder: Path, state: str, dim: int, rows: int, cells: Cells | None) -> None:
    """Complete a folder: write the cells, if any, and what is needed to check all files."""
    if cells is not None:
        cells.save(folder / _CELLS)
    header = {
        "format": _FORMAT,
        "state": state,
        "dim": dim,
        "rows": rows,
        "coverage": None if cells is None else cells.coverage,
        "files": {path.name: _checksum(path) for path in sorted(folder.iterdir())},
    }
    (folder / _HEADER).write_text(json.dumps(header, indent=2) + "\n", "utf-8")


def open_view(
    folder: Path, table: TableName, state: str | None = None, max_rows: int | None = None
) -> View | None:
    """Map the newest index of a table into memory.

    Args:
        folder: of all derived files.
        table: of the store.
        state: the only version wanted. None: any.
        max_rows: a larger index is not opened, since checking its files takes long. None: any.

    Returns:
        The view. None: there is none, or it is damaged.
    """
    for path in sorted(folder.glob(f"{table}-*"), key=_age):
        if path.suffix == _PARTIAL:
            continue
        try:
            header = json.loads((path / _HEADER).read_text("utf-8"))
            if header["format"] != _FORMAT or state not in (None, header["state"]):
                continue
            if max_rows is not None and header["rows"] > max_rows:
                continue
            files = {file.name: _checksum(file) for file in path.iterdir() if file.name != _HEADER}
            if header["files"] != files:
                continue
            dim, coverage = header["dim"], header["coverage"]
            base = open_part(path, dim)
            return View(
                header["state"],
                base,
                join([], dim),
                np.ones(len(base), bool),
                None if coverage is None else Cells.open(path / _CELLS, coverage),
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            continue  # damaged, or another process has just removed it
    return None


def _map(path: Path, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Map a file of numbers. A plain array is indexed faster than a ``np.memmap``."""
    return np.memmap(path, dtype, "r").view(np.ndarray)


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def _checksum(path: Path) -> str:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return f"{path.stat().st_size}-{value:08x}"
