"""Captioned images as people have them: a table, a text file an image, or WebDataset shards."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from dualpath.data.webdataset import IMAGE_SUFFIXES, find_shards, shard_rows
from dualpath.datasets.base import DatasetRow
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError, ShardError

_FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path", "filepath")
_CAPTION_COLUMNS = ("captions", "caption", "text", "description", "sentence", "title")
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


def read_folder(raw: RawFolder) -> list[DatasetRow]:
    """Read whichever of the three forms a folder has; splits are left to the manifest's reader.

    Raises:
        SourceError: it has none of them, more than one table, or one that cannot be read.
    """
    shards = find_shards(raw.folder)
    if shards:
        return list(_read_shards(raw.folder, shards))
    tables = sorted(p for p in raw.folder.iterdir() if p.suffix.lower() in _TABLES)
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise DatasetError(f"{raw.folder}: holds the tables {names}; keep one")
    if tables:
        return _read_table(tables[0], raw)
    rows = list(_read_text_files(raw.folder))
    if not rows:
        raise DatasetError(
            f"{raw.folder}: neither a table ({', '.join(_TABLES)}) of images and captions, nor "
            "images with a text file of the same name each, nor .tar shards"
        )
    return rows


def _read_table(path: Path, raw: RawFolder) -> list[DatasetRow]:
    try:
        rows = _table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error
    columns = list(rows[0]) if rows else []
    file_column = _column(path, columns, _FILE_COLUMNS, "the image's file")
    caption_column = _column(path, columns, _CAPTION_COLUMNS, "the caption")
    merged: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, start=2 if path.suffix.lower() in (".csv", ".tsv") else 1):
        name, told = row.pop(file_column), row.pop(caption_column)
        if not name:
            raise DatasetError(f"{path}:{number}: column '{file_column}' is empty")
        captions = [told] if isinstance(told, str) else list(told or [])
        kept = merged.setdefault(str(name), {"captions": [], **row})
        kept["captions"] += [str(caption).strip() for caption in captions if str(caption).strip()]
    return [_row(name, raw.image(name), fields) for name, fields in merged.items()]


def _table(path: Path) -> pa.Table:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pq.read_table(path)
    if suffix == ".jsonl":
        return pa_json.read_json(path)
    options = pa_csv.ParseOptions(
        delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True
    )
    return pa_csv.read_csv(path, parse_options=options)


def _column(path: Path, columns: Sequence[str], known: Sequence[str], what: str) -> str:
    for name in known:
        for column in columns:
            if column.lower() == name:
                return column
    raise DatasetError(
        f"{path}: no column for {what}; name it '{known[0]}' (there are: {', '.join(columns)})"
    )


def _row(name: str, path: Path, fields: dict[str, Any]) -> DatasetRow:
    kept = {key: value for key, value in fields.items() if value is not None}
    captions = tuple(kept.pop("captions"))
    instance = kept.pop("instance", None)
    return DatasetRow(
        name,
        path,
        captions,
        split=kept.pop("split", None),
        instance=None if instance is None else str(instance),
        metadata=kept,
    )


def _read_text_files(folder: Path) -> Iterator[DatasetRow]:
    for path in sorted(folder.rglob("*")):
        told = path.with_suffix(".txt")
        if path.suffix.lower() in IMAGE_SUFFIXES and told.is_file():
            captions = tuple(filter(None, map(str.strip, told.read_text("utf-8").splitlines())))
            yield DatasetRow(path.relative_to(folder).as_posix(), path, captions, split=None)


def _read_shards(folder: Path, shards: list[Path]) -> Iterator[DatasetRow]:
    """Read the samples of shards; their images stay inside."""
    try:
        for fields in shard_rows(folder, shards):
            name = fields.pop("file_name")
            captions = [caption.strip() for caption in fields["captions"] if caption.strip()]
            yield _row(name, folder / name, {**fields, "captions": captions})
    except ShardError as error:
        raise DatasetError(str(error)) from error
