"""The pictures of a manifest and what is said of them, as rows of a memory-mapped Arrow file.

A process holds some bytes a row (which rows, their split), however many captions there are: the
rest is read from the file when it is asked for, and forgotten again by the system.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[np.int64]
_BATCH = 10_000  # rows of every record batch but the last, so that a row is found by division
_SCHEMA = pa.schema(
    {
        "file_name": pa.binary(),  # file systems have names that are no valid Unicode
        "captions": pa.list_(pa.string()),
        "instance": pa.binary(),
        "split": pa.string(),
        "row": pa.int64(),
        "empty": pa.int32(),
        "metadata": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class Item:
    """One picture with its captions. ``path`` is where the file is; ``row`` its first line.

    ``empty`` counts the captions without a word, which are left out.
    """

    file_name: str
    path: Path
    captions: tuple[str, ...]
    instance: str
    split: str | None
    row: int
    metadata: dict[str, Any] = field(default_factory=dict)
    empty: int = 0


class Items(Sequence[Item]):
    """Some rows of a table of pictures, each made an :class:`Item` when it is asked for.

    Pickled (for the workers of a loader), a table that is mapped from a file is its name.
    """

    def __init__(
        self,
        batches: Sequence[pa.RecordBatch],
        folder: Path,
        *,
        file: Path | None = None,
        rows: Numbers | None = None,
        splits: tuple[Sequence[str], npt.NDArray[np.int16]] | None = None,
    ) -> None:
        self._batches, self._file, self._folder = batches, file, folder
        total = sum(batch.num_rows for batch in batches)
        self._rows: Numbers = np.arange(total) if rows is None else rows
        self._split_names, self._split_of_row = splits or self._read_splits()

    @classmethod
    def mapped(cls, file: Path, folder: Path) -> "Items":
        """Open what :func:`writing_items` wrote; ``folder`` is where file names start."""
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        return cls(batches, folder, file=file)

    @classmethod
    def of(cls, items: Iterable[Item], folder: Path = Path()) -> "Items":
        """Hold items in memory; their paths are ``folder`` and their file names."""
        table = pa.Table.from_pylist([_fields(item) for item in items], schema=_SCHEMA)
        batches = table.combine_chunks().to_batches(max_chunksize=_BATCH)
        return cls(batches, folder)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        source = self._file or list(self._batches)
        splits = (self._split_names, self._split_of_row)
        return _unpickled, (source, self._folder, self._rows, splits)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> "Items": ...
    def __getitem__(self, index: int | slice) -> "Item | Items":
        if isinstance(index, slice):
            return self._having(self._rows[index])
        row = int(self._rows[index])
        batch = self._batches[row // _BATCH]
        return self._item(batch.slice(row % _BATCH, 1).to_pylist()[0], row)

    def __iter__(self) -> Iterator[Item]:
        for batch, rows in self._runs():
            for fields, row in zip(batch.to_pylist(), rows, strict=True):
                yield self._item(fields, int(row))

    def where(self, mask: npt.NDArray[np.bool_]) -> "Items":
        """Return the items for which ``mask``, (items,), is true."""
        return self._having(self._rows[mask])

    def in_order(self, places: Numbers) -> "Items":
        """Return the items at ``places``, in their order."""
        return self._having(self._rows[places])

    def of_split(self, name: str) -> "Items":
        """Return the items of one split."""
        return self.where(self.split_mask(name))

    def split_mask(self, *names: str) -> npt.NDArray[np.bool_]:
        """Return which items are of one of the splits, (items,)."""
        codes = [code for code, known in enumerate(self._split_names) if known in names]
        return np.isin(self._split_of_row[self._rows], codes)

    @property
    def splits(self) -> dict[str, int]:
        """Number of items of each split, in order of appearance."""
        codes, first, counts = np.unique(
            self._split_of_row[self._rows], return_index=True, return_counts=True
        )
        names = [*self._split_names, "none"]  # the code of none is -1
        return {names[codes[i]]: int(counts[i]) for i in np.argsort(first)}

    @property
    def paths(self) -> Sequence[Path]:
        """Where the files are."""
        return _Paths(self)

    @property
    def captions(self) -> Iterator[str]:
        """Every caption, picture by picture."""
        for captions in self.column("captions"):
            yield from captions

    @property
    def caption_counts(self) -> Numbers:
        """How many captions each item has, (items,) int64."""
        counts = pc.list_value_length(self._chunks("captions")).to_numpy()
        return np.asarray(counts, np.int64)[self._rows]

    @property
    def empty_captions(self) -> int:
        """How many captions without a word were left out."""
        return int(self._chunks("empty").to_numpy()[self._rows].sum())

    @property
    def instance_numbers(self) -> Numbers:
        """The instance of each item, (items,) int64, numbered by first appearance."""
        encoded = self._chunks("instance").dictionary_encode()
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks] or [[]])
        _, first, number = np.unique(codes[self._rows], return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[number]

    def column(self, name: str) -> Iterator[Any]:
        """Yield a column of the table, item by item."""
        for batch, _ in self._runs(name):
            values = batch.column(name).to_pylist()
            yield from map(_text, values) if name in ("file_name", "instance") else values

    def with_splits(self, names: Sequence[str], codes: npt.NDArray[np.int16]) -> "Items":
        """Return the same items in other splits: ``codes``, (items,), are places in ``names``."""
        of_row = np.full(len(self._split_of_row), -1, np.int16)
        of_row[self._rows] = codes
        return Items(
            self._batches,
            self._folder,
            file=self._file,
            rows=self._rows,
            splits=(tuple(names), of_row),
        )

    @property
    def split_codes(self) -> tuple[list[str], npt.NDArray[np.int16]]:
        """Names of splits, and which of them each item is of, (items,) int16; -1 is none."""
        return list(self._split_names), self._split_of_row[self._rows]

    def _read_splits(self) -> tuple[Sequence[str], npt.NDArray[np.int16]]:
        encoded = self._chunks("split").dictionary_encode()
        codes = [c.indices.fill_null(-1).to_numpy(zero_copy_only=False) for c in encoded.chunks]
        names = encoded.chunk(encoded.num_chunks - 1).dictionary.to_pylist() if codes else []
        return names, np.concatenate([*codes, np.empty(0, np.int16)]).astype(np.int16)

    def _chunks(self, name: str) -> pa.ChunkedArray:
        columns = [batch.column(name) for batch in self._batches]
        return pa.chunked_array(columns, type=_SCHEMA.field(name).type)

    def _runs(self, *columns: str) -> Iterator[tuple[pa.RecordBatch, Numbers]]:
        """Yield the rows that follow each other in one record batch, at most a thousand."""
        of_batch = self._rows // _BATCH
        new = np.flatnonzero(np.diff(of_batch)) + 1
        every = np.arange(1000, len(self._rows), 1000)
        for rows in np.split(self._rows, np.union1d(new, every)):
            if len(rows):
                batch = self._batches[rows[0] // _BATCH]
                yield (batch.select(list(columns)) if columns else batch).take(rows % _BATCH), rows

    def _having(self, rows: Numbers) -> "Items":
        splits = (self._split_names, self._split_of_row)
        return Items(self._batches, self._folder, file=self._file, rows=rows, splits=splits)

    def _item(self, fields: dict[str, Any], row: int) -> Item:
        code = self._split_of_row[row]
        return Item(
            file_name=_text(fields["file_name"]),
            path=self._folder / _text(fields["file_name"]),
            captions=tuple(fields["captions"]),
            instance=_text(fields["instance"]),
            split=None if code < 0 else self._split_names[code],
            row=fields["row"],
            metadata=json.loads(fields["metadata"]),
            empty=fields["empty"],
        )


@contextmanager
def writing_items(file: Path) -> Iterator[Callable[[Item], None]]:
    """Write items to a file for :meth:`Items.mapped`, one after the other."""
    pending: list[dict[str, Any]] = []
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:

        def write_batch() -> None:
            writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=_SCHEMA))
            pending.clear()

        def write(item: Item) -> None:
            pending.append(_fields(item))
            if len(pending) == _BATCH:
                write_batch()

        yield write
        if pending:
            write_batch()


class _Paths(Sequence[Path]):
    def __init__(self, items: Items) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        chosen = self._items[index]
        return chosen.paths if isinstance(chosen, Items) else chosen.path

    def __iter__(self) -> Iterator[Path]:
        folder = self._items._folder
        return (folder / name for name in self._items.column("file_name"))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogatepass")


def _fields(item: Item) -> dict[str, Any]:
    return {
        "file_name": item.file_name.encode("utf-8", "surrogatepass"),
        "captions": list(item.captions),
        "instance": item.instance.encode("utf-8", "surrogatepass"),
        "split": item.split,
        "row": item.row,
        "empty": item.empty,
        "metadata": json.dumps(item.metadata, default=str),
    }


def _unpickled(
    source: Path | list[pa.RecordBatch],
    folder: Path,
    rows: Numbers,
    splits: tuple[Sequence[str], npt.NDArray[np.int16]],
) -> Items:
    if isinstance(source, Path):
        batches = Items.mapped(source, folder)._batches
        return Items(batches, folder, file=source, rows=rows, splits=splits)
    return Items(source, folder, rows=rows, splits=splits)
