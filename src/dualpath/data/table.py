"""The images of a manifest with their captions, as rows of a memory-mapped Arrow file.

A process holds ten bytes per row (row number and split). Everything else is read from the
file when it is used, and the operating system can drop those pages again. So a manifest may be
larger than memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dualpath.data.record import (
    BATCH_ROWS,
    SCHEMA,
    ImageRecord,
    decode_name,
    record_from_row,
    record_to_row,
)
from dualpath.errors import ManifestError
from dualpath.types import IntArray, Mask

SplitCodes = npt.NDArray[np.int16]  # index into a list of split names; -1 for no split

_READ_ROWS = 1_000  # converted to Python objects at a time


class ImageTable(Sequence[ImageRecord]):
    """Some rows of a table of images; indexing makes an :class:`ImageRecord` of a row.

    Create one with :meth:`from_file` or :meth:`from_records`. A table that is mapped from a file
    is pickled as the file's path, so sending it to the workers of a data loader is cheap.

    >>> records = [ImageRecord(f"{i}.jpg", Path(f"{i}.jpg"), ("a dog",), "dog", "train", i)
    ...            for i in range(3)]
    >>> table = ImageTable.from_records(records)
    >>> [image.file_name for image in table.filter(np.array([True, False, True]))]
    ['0.jpg', '2.jpg']
    >>> table.splits
    {'train': 3}
    """

    def __init__(
        self,
        batches: Sequence[pa.RecordBatch],
        folder: Path,
        *,
        file: Path | None = None,
        rows: IntArray | None = None,
        splits: tuple[Sequence[str], SplitCodes] | None = None,
    ) -> None:
        self._batches, self._file, self._folder = batches, file, folder
        total = sum(batch.num_rows for batch in batches)
        self._rows: IntArray = np.arange(total) if rows is None else rows
        self._split_names, self._split_of_row = splits or self._read_splits()

    @classmethod
    def from_file(cls, file: Path, folder: Path) -> "ImageTable":
        """Open a file of :func:`record_writer`; ``folder`` is the parent of the file names."""
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        return cls(batches, folder, file=file)

    @classmethod
    def from_records(cls, records: Iterable[ImageRecord], folder: Path = Path()) -> "ImageTable":
        """Build a table in memory; the path of an image is ``folder / file_name``."""
        table = pa.Table.from_pylist([record_to_row(record) for record in records], schema=SCHEMA)
        batches = table.combine_chunks().to_batches(max_chunksize=BATCH_ROWS)
        return cls(batches, folder)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        source = self._file or list(self._batches)
        splits = (self._split_names, self._split_of_row)
        return _unpickle, (source, self._folder, self._rows, splits)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, index: slice) -> "ImageTable": ...
    def __getitem__(self, index: int | slice) -> "ImageRecord | ImageTable":
        if isinstance(index, slice):
            return self._with_rows(self._rows[index])
        row = int(self._rows[index])
        batch = self._batches[row // BATCH_ROWS]
        return self._to_record(batch.slice(row % BATCH_ROWS, 1).to_pylist()[0], row)

    def __iter__(self) -> Iterator[ImageRecord]:
        for batch, rows in self._read():
            for values, row in zip(batch.to_pylist(), rows, strict=True):
                yield self._to_record(values, int(row))

    def filter(self, mask: Mask) -> "ImageTable":
        """Return the images for which ``mask``, (images,), is true."""
        return self._with_rows(self._rows[mask])

    def take(self, indices: IntArray) -> "ImageTable":
        """Return the images at ``indices``, in that order."""
        return self._with_rows(self._rows[indices])

    def select_split(self, name: str) -> "ImageTable":
        """Return the images of one split."""
        return self.filter(self.split_mask(name))

    def split_mask(self, *names: str) -> Mask:
        """Return which images belong to one of the splits, (images,)."""
        codes = [code for code, known in enumerate(self._split_names) if known in names]
        return np.isin(self._split_of_row[self._rows], codes)

    @property
    def splits(self) -> dict[str, int]:
        """Number of images of each split, in order of appearance."""
        codes, first, counts = np.unique(
            self._split_of_row[self._rows], return_index=True, return_counts=True
        )
        names = [*self._split_names, "none"]  # the code of no split is -1
        return {names[codes[i]]: int(counts[i]) for i in np.argsort(first)}

    @property
    def paths(self) -> Sequence[Path]:
        """The image files."""
        return _Paths(self)

    @property
    def captions(self) -> Iterator[str]:
        """Every caption, image by image."""
        for captions in self.column("captions"):
            yield from captions

    @property
    def caption_counts(self) -> IntArray:
        """Number of captions of each image, (images,) int64."""
        counts = pc.list_value_length(self._chunks("captions")).to_numpy()
        return np.asarray(counts, np.int64)[self._rows]

    @property
    def empty_captions(self) -> int:
        """Number of captions without text that were ignored."""
        return int(self._chunks("empty_captions").to_numpy()[self._rows].sum())

    @property
    def instance_ids(self) -> IntArray:
        """The instance of each image, (images,) int64, numbered by first appearance."""
        encoded = self._chunks("instance").dictionary_encode()
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks] or [[]])
        _, first, number = np.unique(codes[self._rows], return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[number]

    def column(self, name: str) -> Iterator[Any]:
        """Yield the value of a column for each image."""
        for batch, _ in self._read(name):
            values = batch.column(name).to_pylist()
            yield from map(decode_name, values) if name in ("file_name", "instance") else values

    @property
    def split_codes(self) -> tuple[list[str], SplitCodes]:
        """The split names, and the index of the name of each image, (images,) int16; -1: none."""
        return list(self._split_names), self._split_of_row[self._rows]

    def with_splits(self, names: Sequence[str], codes: SplitCodes) -> "ImageTable":
        """Return the same images with other splits; the arguments are as in ``split_codes``."""
        of_row = np.full(len(self._split_of_row), -1, np.int16)
        of_row[self._rows] = codes
        splits = (tuple(names), of_row)
        return ImageTable(
            self._batches, self._folder, file=self._file, rows=self._rows, splits=splits
        )

    def _read_splits(self) -> tuple[Sequence[str], SplitCodes]:
        encoded = self._chunks("split").dictionary_encode()
        codes = [c.indices.fill_null(-1).to_numpy(zero_copy_only=False) for c in encoded.chunks]
        names = encoded.chunk(encoded.num_chunks - 1).dictionary.to_pylist() if codes else []
        return names, np.concatenate([*codes, np.empty(0, np.int16)]).astype(np.int16)

    def _chunks(self, name: str) -> pa.ChunkedArray:
        columns = [batch.column(name) for batch in self._batches]
        return pa.chunked_array(columns, type=SCHEMA.field(name).type)

    def _read(self, *columns: str) -> Iterator[tuple[pa.RecordBatch, IntArray]]:
        """Yield runs of rows from one record batch each, with their row numbers."""
        batch_changes = np.flatnonzero(np.diff(self._rows // BATCH_ROWS)) + 1
        limits = np.arange(_READ_ROWS, len(self._rows), _READ_ROWS)
        for rows in np.split(self._rows, np.union1d(batch_changes, limits)):
            if len(rows):
                batch = self._batches[rows[0] // BATCH_ROWS]
                selected = batch.select(list(columns)) if columns else batch
                yield selected.take(rows % BATCH_ROWS), rows

    def _with_rows(self, rows: IntArray) -> "ImageTable":
        splits = (self._split_names, self._split_of_row)
        return ImageTable(self._batches, self._folder, file=self._file, rows=rows, splits=splits)

    def _to_record(self, values: dict[str, Any], row: int) -> ImageRecord:
        code = self._split_of_row[row]
        split = None if code < 0 else self._split_names[code]
        return record_from_row(values, self._folder, split)


def captioned(images: ImageTable, split: str) -> ImageTable:
    """Return the images of a split that have a caption.

    Args:
        split: its name, for the message.

    Raises:
        ManifestError: no image has a caption.
    """
    with_caption = images.filter(images.caption_counts > 0)
    if not with_caption:
        raise ManifestError(f"split '{split}' has no image with a caption")
    return with_caption


def instance_numbers(images: ImageTable) -> tuple[IntArray, IntArray]:
    """Return the instance IDs of the images, (images,), and of their captions, (captions,).

    >>> records = [ImageRecord("a.jpg", Path("a.jpg"), ("a dog", "the dog"), "a", "test", 1),
    ...            ImageRecord("b.jpg", Path("b.jpg"), ("a cat",), "b", "test", 2)]
    >>> of_images, of_captions = instance_numbers(ImageTable.from_records(records))
    >>> of_images.tolist(), of_captions.tolist()
    ([0, 1], [0, 0, 1])
    """
    of_images = images.instance_ids
    return of_images, np.repeat(of_images, images.caption_counts)


class _Paths(Sequence[Path]):
    """The paths of a table's images, each made when it is used."""

    def __init__(self, images: ImageTable) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        selected = self._images[index]
        return selected.paths if isinstance(selected, ImageTable) else selected.path

    def __iter__(self) -> Iterator[Path]:
        folder = self._images._folder
        return (folder / name for name in self._images.column("file_name"))


def _unpickle(
    source: Path | list[pa.RecordBatch],
    folder: Path,
    rows: IntArray,
    splits: tuple[Sequence[str], SplitCodes],
) -> ImageTable:
    if isinstance(source, Path):
        batches = ImageTable.from_file(source, folder)._batches
        return ImageTable(batches, folder, file=source, rows=rows, splits=splits)
    return ImageTable(source, folder, rows=rows, splits=splits)
