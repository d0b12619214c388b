"""Your own captioned images: a table, a text file for each image, or WebDataset shards."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualpath.datasets.base import DatasetRow, DatasetSpec
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError, ShardError
from dualpath.utils.text import error_reason

if TYPE_CHECKING:  # the command line lists the data sets, and must start at once
    import pyarrow as pa

_FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path", "filepath")
_CAPTION_COLUMNS = ("captions", "caption", "text", "description", "sentence", "title")
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


def read_folder(raw: RawFolder, _split: str) -> list[DatasetRow]:
    """Read shards, a table, or images with text files, whichever the folder holds.

    Splits are those of the table or the shards. Missing ones are drawn when the manifest is read.

    Raises:
        DatasetError: the folder holds none of the three, more than one table, or a file that cannot
            be read.
    """
    from dualpath.data.webdataset import find_shards

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
            f"{raw.folder}: holds neither a table ({', '.join(_TABLES)}) of images and captions, "
            "nor images with a text file of the same name, nor .tar shards"
        )
    return rows


def _read_table(path: Path, raw: RawFolder) -> list[DatasetRow]:
    """Read a table; rows with the same image are joined, and the first one's metadata is used."""
    import pyarrow as pa

    try:
        rows = _load_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path}: cannot be read ({error_reason(error)})") from error
    columns = list(rows[0]) if rows else []
    file_column = _find_column(path, columns, _FILE_COLUMNS, "the image's file")
    caption_column = _find_column(path, columns, _CAPTION_COLUMNS, "the caption")
    first_line = 2 if path.suffix.lower() in (".csv", ".tsv") else 1  # after the header
    joined: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, start=first_line):
        name, cell = row.pop(file_column), row.pop(caption_column)
        if not name:
            raise DatasetError(f"{path}:{number}: column '{file_column}' is empty")
        captions = [cell] if isinstance(cell, str) else list(cell or [])
        values = joined.setdefault(str(name), {"captions": [], **row})
        values["captions"] += [str(caption).strip() for caption in captions if str(caption).strip()]
    return [_to_row(name, raw.find_image(name), values) for name, values in joined.items()]


def _load_table(path: Path) -> "pa.Table":
    import pyarrow.csv as pa_csv
    import pyarrow.json as pa_json
    import pyarrow.parquet as pq

    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pq.read_table(path)
    if suffix == ".jsonl":
        return pa_json.read_json(path)
    options = pa_csv.ParseOptions(
        delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True
    )
    return pa_csv.read_csv(path, parse_options=options)


def _find_column(path: Path, columns: Sequence[str], known: Sequence[str], what: str) -> str:
    """Return the first column of ``known`` that the table has, in any case of letters."""
    for name in known:
        for column in columns:
            if column.lower() == name:
                return column
    raise DatasetError(
        f"{path}: no column for {what}; name it '{known[0]}' (the table has: {', '.join(columns)})"
    )


def _to_row(name: str, path: Path, values: dict[str, Any]) -> DatasetRow:
    metadata = {key: value for key, value in values.items() if value is not None}
    captions = tuple(metadata.pop("captions"))
    instance = metadata.pop("instance", None)
    return DatasetRow(
        name,
        path,
        captions,
        split=metadata.pop("split", None),
        instance=None if instance is None else str(instance),
        metadata=metadata,
    )


def _read_text_files(folder: Path) -> Iterator[DatasetRow]:
    from dualpath.data.webdataset import IMAGE_SUFFIXES

    for path in sorted(folder.rglob("*")):
        text_file = path.with_suffix(".txt")
        if path.suffix.lower() in IMAGE_SUFFIXES and text_file.is_file():
            lines = text_file.read_text("utf-8").splitlines()
            captions = tuple(line.strip() for line in lines if line.strip())
            yield DatasetRow(path.relative_to(folder).as_posix(), path, captions, split=None)


def _read_shards(folder: Path, shards: list[Path]) -> Iterator[DatasetRow]:
    """Read the samples of shards; their images are not unpacked."""
    from dualpath.data.webdataset import shard_rows

    try:
        for values in shard_rows(folder, shards):
            name = values.pop("file_name")
            captions = [caption.strip() for caption in values["captions"] if caption.strip()]
            yield _to_row(name, folder / name, {**values, "captions": captions})
    except ShardError as error:
        raise DatasetError(str(error)) from error


FOLDER = DatasetSpec(
    "Your own images, with a table (CSV, JSONL, Parquet), text files, or WebDataset shards.",
    read_folder,
)
