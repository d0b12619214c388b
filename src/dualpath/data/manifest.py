"""The manifest: which pictures there are, what is said of them, and which split they belong to.

A folder with ``metadata.jsonl`` (or ``.csv``, ``.parquet``), one row a picture, in the Hugging
Face ImageFolder convention::

    {"file_name": "images/x.jpg", "captions": ["...", "..."], "split": "train", "year": 2020}

``captions`` is a list of sentences; one sentence may stand under ``text`` instead. Rows with the
same ``file_name`` are one picture, so a spreadsheet with a caption a row is read as it is.
``instance`` (default: the picture itself) names what the row shows: pictures and captions of one
instance are one class and all count as right answers. Other keys are kept as metadata.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dualpath.recipe import SplitRecipe

MANIFEST_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_SPLIT_NAMES = {"validation": "val", "valid": "val", "dev": "val"}
_SHOWN_PROBLEMS = 10
_KNOWN_KEYS = ("file_name", "captions", "text", "split", "instance")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]+)?")  # not 007, which is a code


class ManifestError(ValueError):
    """A manifest or a picture that cannot be used; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Item:
    """One picture with its captions. ``path`` is where the file is; ``row`` its first line."""

    file_name: str
    path: Path
    captions: tuple[str, ...]
    instance: str
    split: str | None
    row: int
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """The items of a folder, in the order of the file."""

    folder: Path
    items: tuple[Item, ...]
    empty_captions: int = 0

    def split(self, name: str) -> "Manifest":
        """Return the items of one split (``"all"``: every item)."""
        if name == "all":
            return self
        return self.having(item for item in self.items if item.split == name)

    def having(self, items: Iterable[Item]) -> "Manifest":
        """Return the same manifest with other items."""
        return replace(self, items=tuple(items))

    @property
    def splits(self) -> dict[str, int]:
        """Number of pictures of each split, in order of appearance."""
        counts: dict[str, int] = {}
        for item in self.items:
            counts[item.split or "none"] = counts.get(item.split or "none", 0) + 1
        return counts

    @property
    def captions(self) -> list[str]:
        """Every caption, picture by picture."""
        return [caption for item in self.items for caption in item.captions]


def read_manifest(folder: Path, split: SplitRecipe | None = None, seed: int = 0) -> Manifest:
    """Read, check and complete the manifest of ``folder``.

    Instances without a split get one by a hash of their name and ``seed``, in the shares of
    ``split``, so the draw does not change when rows are added or moved.

    Raises:
        ManifestError: there is no manifest, rows are bad (all are named, up to ten), a picture's
            rows disagree, or one instance is in two splits.
    """
    path = find_manifest(folder)
    problems: list[str] = []
    items, empty_captions = _merge(_rows(path, problems), folder, path, problems)
    items = _draw_missing_splits(items, split or SplitRecipe(), seed)
    problems += _leaks(items, path)
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        listed = problems[:_SHOWN_PROBLEMS] + ([f"... and {more} more"] if more > 0 else [])
        raise ManifestError("\n".join(listed))
    if not items:
        raise ManifestError(f"{path}: holds no pictures; write one row a picture")
    return Manifest(folder=folder, items=tuple(items), empty_captions=empty_captions)


def find_manifest(folder: Path) -> Path:
    """Return the manifest file of a folder, or raise :class:`ManifestError`."""
    found = [folder / name for name in MANIFEST_NAMES if (folder / name).is_file()]
    if not found:
        raise ManifestError(
            f"{folder}: no manifest; write one of {', '.join(MANIFEST_NAMES)} with the columns "
            "file_name and captions (or text)"
        )
    if len(found) > 1:
        raise ManifestError(f"{folder}: holds {' and '.join(p.name for p in found)}; keep one")
    return found[0]


def read_pictures(folder: Path) -> Manifest:
    """Read a folder of pictures: by its manifest, or, without one, every picture file below it."""
    if any((folder / name).is_file() for name in MANIFEST_NAMES):
        return read_manifest(folder)
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise ManifestError(f"{folder}: holds neither a manifest nor a picture")
    names = [str(path.relative_to(folder)) for path in paths]
    return Manifest(
        folder=folder,
        items=tuple(
            Item(file_name=name, path=path, captions=(), instance=name, split=None, row=0)
            for name, path in zip(names, paths, strict=True)
        ),
    )


def write_manifest(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows as ``metadata.jsonl``, whole or not at all, and return its path."""
    path = folder / MANIFEST_NAMES[0]
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.replace(path)
    return path


def _rows(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line, row) of a manifest file; unreadable rows become problems."""
    try:
        if path.suffix == ".jsonl":
            yield from _json_rows(path, problems)
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                rows = [
                    (reader.line_num, {k: v for k, v in row.items() if k and v}) for row in reader
                ]
            yield from _with_numbers(rows)
        else:
            yield from enumerate(pq.read_table(path).to_pylist(), start=1)
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error


def _with_numbers(
    rows: list[tuple[int, dict[str, Any]]],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the metadata columns of a CSV file that hold nothing but numbers as numbers."""
    is_text = set(_KNOWN_KEYS)
    for _, row in rows:
        is_text |= {key for key, cell in row.items() if not _NUMBER.fullmatch(str(cell))}
    for line, row in rows:
        yield line, {k: v if k in is_text else json.loads(v) for k, v in row.items()}


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
                problems.append(f"{path}:{number}: a row is a JSON object")


def _merge(
    rows: Iterable[tuple[int, dict[str, Any]]], folder: Path, path: Path, problems: list[str]
) -> tuple[list[Item], int]:
    items: dict[str, Item] = {}
    empty = 0
    for number, row in rows:
        try:
            item, empty_here = _item(row, number, folder)
            empty += empty_here
            earlier = items.get(item.file_name)
            items[item.file_name] = _merged(earlier, item) if earlier else item
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    return list(items.values()), empty


def _item(row: dict[str, Any], number: int, folder: Path) -> tuple[Item, int]:
    file_name = row.pop("file_name", None)
    if not isinstance(file_name, str) or not file_name:
        raise ValueError("column 'file_name' is missing or empty")
    captions = _captions(row.pop("captions", None), row.pop("text", None))
    kept = tuple(caption.strip() for caption in captions if caption.strip())
    instance = row.pop("instance", None)
    split = row.pop("split", None)
    if split is not None and not isinstance(split, str):
        raise ValueError(f"'split' is a name such as train, val or test, not {split!r}")
    item = Item(
        file_name=file_name,
        path=folder / file_name,
        captions=kept,
        instance=file_name if instance is None else str(instance),
        split=_SPLIT_NAMES.get(split, split) if split else None,
        row=number,
        metadata=row,
    )
    return item, len(captions) - len(kept)


def _captions(captions: Any, text: Any) -> list[str]:
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
        raise ValueError("'captions' is a list of sentences, 'text' one sentence")
    return sentences


def _merged(first: Item, second: Item) -> Item:
    for name in ("instance", "split"):
        if getattr(first, name) != getattr(second, name):
            raise ValueError(
                f"{first.file_name} has another {name} than on line {first.row}; make them agree"
            )
    return replace(first, captions=first.captions + second.captions)


def _draw_missing_splits(items: list[Item], split: SplitRecipe, seed: int) -> list[Item]:
    known = {item.instance: item.split for item in items if item.split}
    return [
        item
        if item.split
        else replace(item, split=known.get(item.instance) or _draw(item.instance, split, seed))
        for item in items
    ]


def _draw(instance: str, split: SplitRecipe, seed: int) -> str:
    digest = hashlib.blake2b(f"{seed}:{instance}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    if share < split.train:
        return "train"
    return "val" if share < split.train + split.val else "test"


def _leaks(items: list[Item], path: Path) -> list[str]:
    seen: dict[str, Item] = {}
    problems = []
    for item in items:
        first = seen.setdefault(item.instance, item)
        if first.split != item.split:
            problems.append(
                f"{path}:{item.row}: instance '{item.instance}' is in split {item.split} here and "
                f"in {first.split} on line {first.row}; an instance belongs to one split"
            )
    return problems
