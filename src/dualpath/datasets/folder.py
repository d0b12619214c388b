"""Your own captioned images: a table, a text file for each image, or WebDataset shards."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dualpath.datasets.base import DatasetRow, DatasetSpec
from dualpath.datasets.raw_folder import RawFolder
from dualpath.errors import DatasetError, ShardError
from dualpath.utils.text import error_reason, first_n_lines

# The command line lists the data sets and must start at once: functions import what they need.
_FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path", "filepath")
_CAPTION_COLUMNS = ("captions", "caption", "text", "description", "sentence", "title")
_SHOWN_PROBLEMS = 10
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

    problems: list[str] = []
    try:
        rows = _load_table(path, problems)
    except (pa.ArrowException, OSError, ValueError) as error:
        text = error_reason(error)
        reason = text if text.startswith(str(path)) else f"{path}: cannot be read ({text})"
        raise DatasetError(reason) from error
    columns = list(dict.fromkeys(key for _, row in rows for key in row))
    file_column = _find_column(path, columns, _FILE_COLUMNS, "the image's file")
    caption_column = _find_column(path, columns, _CAPTION_COLUMNS, "the caption")
    joined: dict[str, dict[str, Any]] = {}
    for number, row in rows:
        name, cell = row.pop(file_column, None), row.pop(caption_column, None)
        if not name:
            raise DatasetError(f"{path}:{number}: column '{file_column}' is empty")
        try:
            captions = _captions(cell)
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        values = joined.setdefault(str(name), {"captions": [], **row})
        values["captions"] += [caption.strip() for caption in captions if caption.strip()]
    if problems:
        raise DatasetError(first_n_lines(problems, _SHOWN_PROBLEMS))
    return [_to_row(name, raw.find_image(name), values) for name, values in joined.items()]


def _captions(cell: Any) -> list[str]:
    """Return the sentences of a cell: none, one, or a list; numbers are texts."""
    from dualpath.data.manifest_rows import read_caption_list

    if cell is None:
        return []
    if isinstance(cell, list):
        return [str(caption) for caption in cell if caption is not None]
    return read_caption_list(str(cell))


def _load_table(path: Path, problems: list[str]) -> list[tuple[int, dict[str, Any]]]:
    """Return (line, row) of a table."""
    import pyarrow.parquet as pq

    from dualpath.data.csv_table import number_columns, read_csv, typed_row
    from dualpath.data.json_values import plain_value
    from dualpath.utils.text_files import open_text

    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows = enumerate(pq.read_table(path).to_pylist(), start=1)
        return [(n, {key: plain_value(v) for key, v in row.items()}) for n, row in rows]
    if suffix == ".jsonl":
        with open_text(path) as file:
            return [(n, _json_row(path, n, line)) for n, line in enumerate(file, 1) if line.strip()]
    names = (*_FILE_COLUMNS, *_CAPTION_COLUMNS, "split", "instance")
    table = list(read_csv(path, names, problems))
    texts = [key for key in (table[0][1] if table else ()) if key.lower() in names]
    numbers = number_columns((row for _, row in table), texts)
    return [(line, typed_row(row, numbers)) for line, row in table]


def _json_row(path: Path, number: int, line: str) -> dict[str, Any]:
    from dualpath.data.json_values import parse_json

    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{path}:{number}: cannot be read ({error_reason(error)})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{path}:{number}: a row must be a JSON object")  # noqa: TRY004
    return row


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
    from dualpath.data.formats import image_suffixes
    from dualpath.utils.text_files import read_lines

    for path in sorted(folder.rglob("*")):
        text_file = path.with_suffix(".txt")
        if path.suffix.lower() in image_suffixes() and text_file.is_file():
            try:
                lines = read_lines(text_file)
            except ValueError as error:
                raise DatasetError(str(error)) from error
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
