"""Reading the rows of a manifest file or of shards, and checking each of them."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dualpath.data.csv_table import number_columns, read_csv, typed_row
from dualpath.data.json_values import check_text, parse_json, plain_value
from dualpath.data.record import ImageRecord
from dualpath.data.webdataset import shard_rows
from dualpath.errors import ManifestError, ShardError
from dualpath.utils.text import error_reason
from dualpath.utils.text_files import open_text

_SPLIT_NAMES = {
    **{name: name for name in ("train", "val", "test")},
    "validation": "val",
    "valid": "val",
    "dev": "val",
}
_CAPTION_COLUMNS = ("captions", "text", "caption")
_TEXT_COLUMNS = ("file_name", *_CAPTION_COLUMNS, "split", "instance")
_LIST = re.compile(r"\[\s*[\"']")  # the start of a list of texts, and not of [Portrait of a woman]


class Source(NamedTuple):
    """A file with rows.

    Attributes:
        path: a manifest file or a shard.
        prefix: the folder of the file names, relative to the manifest's folder.
        split: of the rows that name none.
    """

    path: Path
    prefix: str = ""
    split: str | None = None


def read_records(
    sources: list[Source], folder: Path, problems: list[str], *, require_captions: bool = True
) -> Iterator[ImageRecord]:
    """Yield a record for each valid row, and append a message to ``problems`` for each other row.

    Args:
        sources: manifest files, or shards.
        folder: parent of the file names.
        require_captions: whether a row without a column for captions is a problem.

    Raises:
        ManifestError: a file cannot be read.
    """
    shards = sources[0].path.suffix == ".tar"
    for group in [sources] if shards else [[source] for source in sources]:
        source = group[0]
        for number, row in _rows(group, folder, problems):
            try:
                yield _to_record(row, number, folder, source, require_captions=require_captions)
            except ValueError as error:
                problems.append(f"{source.path}:{number}: {error}")


def known_split(name: str) -> str | None:
    """Return train, val or test for a name of this split, in any case of letters; else None.

    >>> known_split("Validation"), known_split("dogs")
    ('val', None)
    """
    return _SPLIT_NAMES.get(name.lower())


def _rows(
    sources: list[Source], folder: Path, problems: list[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a manifest or of shards."""
    path = sources[0].path
    try:
        if path.suffix == ".tar":
            yield from enumerate(shard_rows(folder, [s.path for s in sources]), start=1)
        elif path.suffix == ".jsonl":
            yield from _json_rows(path, problems)
        elif path.suffix == ".csv":
            yield from _csv_rows(path, problems)
        else:
            batches = pq.ParquetFile(path).iter_batches()
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield number, {key: plain_value(value) for key, value in row.items()}
    except ShardError as error:
        raise ManifestError(str(error)) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        text = error_reason(error)
        reason = text if text.startswith(str(path)) else f"{path}: cannot be read ({text})"
        raise ManifestError(reason) from error


def _csv_rows(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a CSV file; a metadata column of numbers alone becomes numeric."""
    first = (row for _, row in read_csv(path, _TEXT_COLUMNS, problems))
    numbers = number_columns(first, _TEXT_COLUMNS)
    for line, row in read_csv(path, _TEXT_COLUMNS, []):
        values = typed_row(row, numbers)
        yield line, {k: v for k, v in values.items() if v is not None or k in _CAPTION_COLUMNS}


def _json_rows(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                problems.append(f"{path}:{number}: {error_reason(error)}")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                problems.append(f"{path}:{number}: a row must be a JSON object")


def _to_record(
    row: dict[str, Any], number: int, folder: Path, source: Source, *, require_captions: bool
) -> ImageRecord:
    """Return the record of a row; raise ``ValueError`` if the row is invalid."""
    file_name = row.pop("file_name", None)
    if not isinstance(file_name, str) or not file_name:
        raise ValueError("column 'file_name' is missing or empty")
    captions = _captions(row, require_captions=require_captions)
    stripped = tuple(caption.strip() for caption in captions if caption.strip())
    instance = row.pop("instance", None)
    split = row.pop("split", None)
    if split is not None and not isinstance(split, str):
        raise ValueError(f"'split' must be a name such as train, val or test, not {split!r}")
    for text in (file_name, str(instance), split or "", *stripped):
        check_text(text)
    if source.prefix:
        file_name = str(PurePosixPath(source.prefix) / file_name)
    split = (split or "").strip() or source.split
    return ImageRecord(
        file_name=file_name,
        path=folder / file_name,
        captions=stripped,
        instance=file_name if instance is None else str(instance),
        split=None if split is None else known_split(split) or split,
        row=number,
        metadata=row,
        empty_captions=len(captions) - len(stripped),
    )


def _captions(row: dict[str, Any], *, require_captions: bool) -> list[str]:
    """Remove the column of captions from a row, and return its sentences."""
    present: list[str] = [name for name in ("captions", "text") if name in row]
    if not present and "caption" in row:
        present = ["caption"]
    if not present and require_captions:
        raise ValueError("column 'captions' (a list of sentences) or 'text' (one) is missing")
    given = [value for name in present if (value := row.pop(name)) is not None]
    if len(given) > 1:
        raise ValueError("has both 'captions' and 'text'; keep one")
    if not given:
        return []
    sentences = given[0]
    if isinstance(sentences, str):
        sentences = read_caption_list(sentences) if present == ["captions"] else [sentences]
    if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise ValueError("'captions' must be a list of sentences, 'text' one sentence")
    return sentences


def read_caption_list(cell: str) -> list[str]:
    """Return the sentences of a cell, which contains one sentence or a list as JSON or Python.

    >>> read_caption_list('["a dog", "the dog"]'), read_caption_list("[Portrait of a woman]")
    (['a dog', 'the dog'], ['[Portrait of a woman]'])

    Raises:
        ValueError: the cell begins as a list of texts, but is none.
    """
    text = cell.strip()
    if text == "[]":
        return []
    if not _LIST.match(text):
        return [cell]
    sentences = None
    try:
        sentences = json.loads(text)
    except (ValueError, RecursionError):
        try:
            sentences = ast.literal_eval(text)  # as pandas writes a list
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            sentences = None
    if not isinstance(sentences, list) or not all(isinstance(s, str | int) for s in sentences):
        raise ValueError("'captions' is not a JSON list of sentences")
    return [str(sentence) for sentence in sentences]


def merge_records(first: ImageRecord, second: ImageRecord) -> ImageRecord:
    """Return the record of two rows of the same image, with the captions of both.

    Raises:
        ValueError: the rows differ in instance or split.
    """
    for name in ("instance", "split"):
        if getattr(first, name) != getattr(second, name):
            raise ValueError(
                f"{first.file_name} has another {name} than on line {first.row}; make them equal"
            )
    captions = first.captions + second.captions
    empty_captions = first.empty_captions + second.empty_captions
    return replace(first, captions=captions, empty_captions=empty_captions)
