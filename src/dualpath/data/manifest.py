"""The manifest: which pictures there are, what is said of them, and which split they belong to.

A folder with ``metadata.jsonl`` (or ``.csv``, ``.parquet``), one row a picture, in the Hugging
Face ImageFolder convention::

    {"file_name": "images/x.jpg", "captions": ["...", "..."], "split": "train", "year": 2020}

``captions`` is a list of sentences; one sentence may stand under ``text`` instead. Rows with the
same ``file_name`` are one picture, so a spreadsheet with a caption a row is read as it is.
``instance`` (default: the picture itself) names what the row shows: pictures and captions of one
instance are one class and all count as right answers. Other keys are kept as metadata. A folder
without such a file may hold WebDataset shards instead (:mod:`dualpath.data.tars`).

What was read is kept as an Arrow file in the cache folder until the manifest changes.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dualpath.data.cache import default_cache_folder
from dualpath.data.items import Item, Items, writing_items
from dualpath.data.manifest_rows import ManifestError as ManifestError
from dualpath.data.manifest_rows import merged, read_items
from dualpath.data.tars import PICTURE_SUFFIXES, find_shards
from dualpath.recipe import SplitRecipe

MANIFEST_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SHOWN_PROBLEMS = 10
_LAYOUT = "2"  # of the kept Arrow files


@dataclass(frozen=True)
class Manifest:
    """The items of a folder, in the order of the file."""

    folder: Path
    items: Items

    def split(self, name: str) -> "Manifest":
        """Return the items of one split (``"all"``: every item)."""
        return self if name == "all" else replace(self, items=self.items.of_split(name))

    @property
    def splits(self) -> dict[str, int]:
        """Number of pictures of each split, in order of appearance."""
        return self.items.splits


def read_manifest(
    folder: Path, split: SplitRecipe | None = None, seed: int = 0, cache: Path | None = None
) -> Manifest:
    """Read, check and complete the manifest of ``folder``, or the shards it holds.

    Instances without a split get one by a hash of their name and ``seed``, in the shares of
    ``split``, so the draw does not change when rows are added or moved.

    Args:
        cache: folder in which what was read is kept (default: the user's).

    Raises:
        ManifestError: there is no manifest, rows are bad (all are named, up to ten), a picture's
            rows disagree, or one instance is in two splits.
    """
    kept = (cache or default_cache_folder()) / "manifests"
    sources = [_manifest_file(folder)] if _has_manifest(folder) else find_shards(folder)
    if not sources:
        raise ManifestError(
            f"{folder}: no manifest; write one of {', '.join(MANIFEST_NAMES)} with the columns "
            "file_name and captions (or text)"
        )
    place = hashlib.blake2b(str(folder.resolve()).encode("utf-8", "surrogateescape"), digest_size=8)
    file = kept / f"{place.hexdigest()}-{_digest(sources)}.arrow"
    if not file.exists():
        _keep(sources, folder, file)
        for outdated in set(kept.glob(f"{place.hexdigest()}-*.arrow")) - {file}:
            with suppress(OSError):  # another process may read it still
                outdated.unlink()
    items = _with_all_splits(Items.mapped(file, folder), split or SplitRecipe(), seed)
    _raise_problems(_leaks(items, sources[0]))
    if not items:
        raise ManifestError(f"{sources[0]}: holds no pictures; write one row a picture")
    return Manifest(folder, items)


def read_pictures(folder: Path) -> Manifest:
    """Read a folder of pictures: its manifest, its shards, or every picture file below it."""
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder")
    if _has_manifest(folder) or find_shards(folder):
        return read_manifest(folder)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise ManifestError(f"{folder}: holds neither a manifest nor a picture")
    names = (str(path.relative_to(folder)) for path in paths)
    items = (Item(name, folder / name, (), instance=name, split=None, row=0) for name in names)
    return Manifest(folder, Items.of(items, folder))


def write_manifest(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows as ``metadata.jsonl``, whole or not at all, and return its path."""
    path = folder / MANIFEST_NAMES[0]
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    partial.replace(path)
    return path


def _has_manifest(folder: Path) -> bool:
    return any((folder / name).is_file() for name in MANIFEST_NAMES)


def _manifest_file(folder: Path) -> Path:
    found = [folder / name for name in MANIFEST_NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise ManifestError(f"{folder}: holds {' and '.join(p.name for p in found)}; keep one")
    return found[0]


def _digest(sources: list[Path]) -> str:
    """What tells whether sources changed: the bytes of a manifest, size and time of a shard."""
    digest = hashlib.blake2b(_LAYOUT.encode(), digest_size=8)
    for source in sources:
        if source.suffix == ".tar":
            state = source.stat()
            digest.update(repr((str(source), state.st_size, state.st_mtime_ns)).encode())
        else:
            with source.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _keep(sources: list[Path], folder: Path, file: Path) -> None:
    """Write the items of a manifest or of shards to an Arrow file, whole or not at all."""
    problems: list[str] = []
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        read, joined = Path(scratch) / "read.arrow", Path(scratch) / "joined.arrow"
        names = bytearray()
        with writing_items(read) as write:
            for item in read_items(sources, folder, problems):
                names += _name_hash(item.file_name)
                write(item)
        hashes = np.frombuffer(names, np.uint64)
        _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
        if len(first) < len(hashes):
            rows = Items.mapped(read, folder)
            same_together = rows.in_order(np.argsort(first[number], kind="stable"))
            with writing_items(joined) as write:
                for item in _merge(same_together, sources, problems):
                    write(item)
            joined.replace(read)
        _raise_problems(problems)
        read.replace(file)


def _name_hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _raise_problems(problems: list[str]) -> None:
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        listed = problems[:_SHOWN_PROBLEMS] + ([f"... and {more} more"] if more > 0 else [])
        raise ManifestError("\n".join(listed))


def _merge(items: Items, sources: list[Path], problems: list[str]) -> Iterator[Item]:
    """Yield one item for all rows of a picture, which follow each other."""
    picture: Item | None = None
    for item in items:
        if picture is None or item.file_name != picture.file_name:
            if picture is not None:
                yield picture
            picture = item
            continue
        try:
            picture = merged(picture, item)
        except ValueError as error:
            problems.append(f"{sources[0]}:{item.row}: {error}")
    if picture is not None:
        yield picture


def _with_all_splits(items: Items, split: SplitRecipe, seed: int) -> Items:
    """Draw a split for the instances that have none."""
    names, codes = items.split_codes
    if (codes >= 0).all():
        return items
    instances = items.instance_numbers
    known = np.full(instances.max() + 1, -1, np.int16)
    given = np.flatnonzero(codes >= 0)[::-1]  # of several splits of an instance, the first counts
    known[instances[given]] = codes[given]
    codes = np.where(codes < 0, known[instances], codes)
    names += [name for name in ("train", "val", "test") if name not in names]
    for place, instance in enumerate(items.column("instance")):
        if codes[place] < 0:
            codes[place] = names.index(_draw(instance, split, seed))
    return items.with_splits(names, codes)


def _draw(instance: str, split: SplitRecipe, seed: int) -> str:
    digest = hashlib.blake2b(f"{seed}:{instance}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    if share < split.train:
        return "train"
    return "val" if share < split.train + split.val else "test"


def _leaks(items: Items, path: Path) -> list[str]:
    _, codes = items.split_codes
    instances = items.instance_numbers
    _, first = np.unique(instances, return_index=True)
    problems = []
    for place in np.flatnonzero(codes != codes[first][instances]):
        item, earlier = items[int(place)], items[int(first[instances[place]])]
        problems.append(
            f"{path}:{item.row}: instance '{item.instance}' is in split {item.split} here and "
            f"in {earlier.split} on line {earlier.row}; an instance belongs to one split"
        )
    return problems
