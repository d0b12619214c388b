"""One image of a manifest with its captions, and the Arrow file in which records are cached."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

BATCH_ROWS = 10_000  # of every record batch but the last, so a division finds the batch of a row
SCHEMA = pa.schema(
    {
        "file_name": pa.binary(),  # file systems have names that are not valid Unicode
        "captions": pa.list_(pa.string()),
        "instance": pa.binary(),
        "split": pa.string(),
        "row": pa.int64(),
        "empty_captions": pa.int32(),
        "metadata": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image with its captions.

    Attributes:
        file_name: as in the manifest, relative to its folder.
        path: of the image file.
        captions: without empty ones.
        instance: name of the class that the image and its captions belong to.
        split: ``"train"``, ``"val"``, ``"test"`` or another name. None: not drawn yet.
        row: line of the manifest where the image appears first.
        metadata: the other columns of the manifest.
        empty_captions: number of captions without text that were ignored.
    """

    file_name: str
    path: Path
    captions: tuple[str, ...]
    instance: str
    split: str | None
    row: int
    metadata: dict[str, Any] = field(default_factory=dict)
    empty_captions: int = 0


@contextmanager
def record_writer(file: Path) -> Iterator[Callable[[ImageRecord], None]]:
    """Yield a function that appends a record to a file for :meth:`ImageTable.from_file`."""
    pending: list[dict[str, Any]] = []
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:

        def write_batch() -> None:
            writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=SCHEMA))
            pending.clear()

        def write(record: ImageRecord) -> None:
            pending.append(record_to_row(record))
            if len(pending) == BATCH_ROWS:
                write_batch()

        yield write
        if pending:
            write_batch()


def record_to_row(record: ImageRecord) -> dict[str, Any]:
    """Return the values of a record in the types of :data:`SCHEMA`."""
    return {
        "file_name": record.file_name.encode("utf-8", "surrogatepass"),
        "captions": list(record.captions),
        "instance": record.instance.encode("utf-8", "surrogatepass"),
        "split": record.split,
        "row": record.row,
        "empty_captions": record.empty_captions,
        "metadata": json.dumps(record.metadata, default=str),
    }


def record_from_row(values: dict[str, Any], folder: Path, split: str | None) -> ImageRecord:
    """Return the record of a row; ``split`` replaces the one of the row."""
    file_name = decode_name(values["file_name"])
    return ImageRecord(
        file_name=file_name,
        path=folder / file_name,
        captions=tuple(values["captions"]),
        instance=decode_name(values["instance"]),
        split=split,
        row=values["row"],
        metadata=json.loads(values["metadata"]),
        empty_captions=values["empty_captions"],
    )


def decode_name(name: bytes) -> str:
    """Decode a name as :func:`record_to_row` encoded it."""
    return name.decode("utf-8", "surrogatepass")
