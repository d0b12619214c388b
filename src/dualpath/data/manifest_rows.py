"""Reading the rows of a manifest file or of shards, and checking each of them."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dualpath.data.record import ImageRecord
from dualpath.data.webdataset import shard_rows
from dualpath.errors import ManifestError, ShardError
from dualpath.utils.text import error_reason

_SPLIT_NAMES = {"validation": "val", "valid": "val", "dev": "val"}
_TEXT_COLUMNS = ("file_name", "captions", "text", "split", "instance")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?")  # not 007, which is a code


def read_records(sources: list[Path], folder: Path, problems: list[str]) -> Iterator[ImageRecord]:
    """Yield a record for each valid row, and append a message to ``problems`` for each other row.

    Args:
        sources: one manifest file, or shards.
        folder: parent of the file names.

    Raises:
        ManifestError: a file cannot be read.
    """
    for number, row in _rows(sources, folder, problems):
        try:
            yield _to_record(row, number, folder)
        except ValueError as error:
            problems.append(f"{sources[0]}:{number}: {error}")


def _rows(
    sources: list[Path], folder: Path, problems: list[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a manifest or of shards."""
    path = sources[0]
    try:
        if path.suffix == ".tar":
            yield from enumerate(shard_rows(folder, sources), start=1)
        elif path.suffix == ".jsonl":
            yield from _json_rows(path, problems)
        elif path.suffix == ".csv":
            yield from _csv_rows(path)
        else:
            batches = pq.ParquetFile(path).iter_batches()
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from enumerate(rows, start=1)
    except ShardError as error:
        raise ManifestError(str(error)) from error
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: cannot be read ({error_reason(error)})") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a CSV file; a metadata column of numbers alone becomes numeric."""

    def lines() -> Iterator[tuple[int, dict[str, str]]]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                yield reader.line_num, {k: v for k, v in row.items() if k and v}

    text_columns = set(_TEXT_COLUMNS)
    for _, row in lines():
        text_columns |= {key for key, cell in row.items() if not _NUMBER.fullmatch(str(cell))}
    for line, row in lines():
        yield line, {k: v if k in text_columns else json.loads(v) for k, v in row.items()}


def _json_rows(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                problems.append(f"{path}:{number}: not valid JSON ({error.msg})")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                problems.append(f"{path}:{number}: a row must be a JSON object")


def _to_record(row: dict[str, Any], number: int, folder: Path) -> ImageRecord:
    """Return the record of a row; raise ``ValueError`` if the row is invalid."""
    file_name = row.pop("file_name", None)
    if not isinstance(file_name, str) or not file_name:
        raise ValueError("column 'file_name' is missing or empty")
    captions = _captions(row.pop("captions", None), row.pop("text", None))
    stripped = tuple(caption.strip() for caption in captions if caption.strip())
    instance = row.pop("instance", None)
    split = row.pop("split", None)
    if split is not None and not isinstance(split, str):
        raise ValueError(f"'split' must be a name such as train, val or test, not {split!r}")
    _check_unicode(file_name, str(instance), split or "", *stripped)
    return ImageRecord(
        file_name=file_name,
        path=folder / file_name,
        captions=stripped,
        instance=file_name if instance is None else str(instance),
        split=_SPLIT_NAMES.get(split, split) if split else None,
        row=number,
        metadata=row,
        empty_captions=len(captions) - len(stripped),
    )


def _captions(captions: Any, text: Any) -> list[str]:
    """Return the sentences of the columns ``captions`` and ``text``, of which a row has one."""
    if captions is None and text is None:
        raise ValueError("column 'captions' (a list of sentences) or 'text' (one) is missing")
    if captions is not None and text is not None:
        raise ValueError("has both 'captions' and 'text'; keep one")
    if isinstance(captions, str) and captions.lstrip().startswith("["):
        try:
            captions = json.loads(captions)
        except json.JSONDecodeError as error:
            raise ValueError(f"'captions' is not a JSON list of sentences ({error.msg})") from error
    sentences = text if captions is None else captions
    sentences = [sentences] if isinstance(sentences, str) else sentences
    if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
        raise ValueError("'captions' must be a list of sentences, 'text' one sentence")
    return sentences


def _check_unicode(*texts: str) -> None:
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"{text!r} is not valid Unicode (half a surrogate pair)") from error


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
