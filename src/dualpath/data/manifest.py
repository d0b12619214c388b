"""Reading and writing manifests, which list the images of a folder with captions and splits.

A manifest is a file ``metadata.jsonl`` (or ``.csv``, ``.parquet``) in the Hugging Face ImageFolder
convention, with one row per image::

    {"file_name": "images/x.jpg", "captions": ["...", "..."], "split": "train", "year": 2020}

* ``captions`` is a list of sentences. A single sentence may be given as ``text`` instead.
* Rows with the same ``file_name`` are joined, so a spreadsheet may have one row per caption.
* ``instance`` names the class of the image and its captions (default: the image itself). All images
  and captions of an instance are relevant to each other.
* Other columns are metadata.

A folder without such a file may hold WebDataset shards instead (:mod:`dualpath.data.webdataset`),
or one manifest in each of the folders ``train``, ``val`` and ``test``, as data sets of Hugging Face
do.

The rows are cached as an Arrow file in the cache folder until the manifest changes.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dualpath.data.cache import default_cache_folder
from dualpath.data.image_files import find_image_files
from dualpath.data.manifest_rows import Source, known_split, merge_records, read_records
from dualpath.data.record import ImageRecord, record_writer
from dualpath.data.table import ImageTable
from dualpath.data.webdataset import find_shards
from dualpath.errors import ManifestError
from dualpath.recipes.schema import SplitRecipe
from dualpath.utils.files import atomic_path
from dualpath.utils.text import first_n_lines

MANIFEST_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SHOWN_PROBLEMS = 10
_CACHE_VERSION = "4"  # of the layout of the Arrow files


@dataclass(frozen=True)
class Manifest:
    """The images of a folder, in the order of the file.

    Attributes:
        folder: where the manifest is.
        images: with captions, split, instance and metadata.
        notes: what was not read, a line each, such as ``3 videos, 1 RAW not indexed``.
    """

    folder: Path
    images: ImageTable
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> "Manifest":
        """Return the manifest of one split; ``"all"`` returns all images."""
        return self if name == "all" else replace(self, images=self.images.select_split(name))

    @property
    def splits(self) -> dict[str, int]:
        """Number of images of each split, in order of appearance."""
        return self.images.splits


def read_manifest(
    folder: Path,
    split: SplitRecipe | None = None,
    seed: int = 0,
    cache: Path | None = None,
    *,
    require_captions: bool = True,
) -> Manifest:
    """Read and check the manifest or the shards of a folder, and draw missing splits.

    The split of an instance without one is drawn by a hash of its name and ``seed``, so it does
    not change when rows are added or reordered.

    Args:
        split: shares of the drawn splits (default: 80, 10 and 10 percent).
        seed: of the draw.
        cache: folder for the cached rows (default: the cache folder of the user).
        require_captions: whether a row without a column for captions is an error.

    Raises:
        ManifestError: there is no manifest, rows are invalid (the message lists ten of them), rows
            of one image disagree, or one instance is in two splits.
    """
    cached = (cache or default_cache_folder()) / "manifests"
    sources = find_sources(folder)
    if not sources:
        raise ManifestError(
            f"{folder}: no manifest; write one of {', '.join(MANIFEST_NAMES)} with the columns "
            "file_name and captions (or text)"
        )
    name = hashlib.blake2b(str(folder.resolve()).encode("utf-8", "surrogateescape"), digest_size=8)
    digest = _digest(sources) + ("" if require_captions else "-optional")
    file = cached / f"{name.hexdigest()}-{digest}.arrow"
    if not file.exists():
        _cache_records(sources, folder, file, require_captions=require_captions)
        for outdated in set(cached.glob(f"{name.hexdigest()}-*.arrow")) - {file}:
            with suppress(OSError):  # on Windows another process may still have it open
                outdated.unlink()
    images = _draw_missing_splits(ImageTable.from_file(file, folder), split or SplitRecipe(), seed)
    _raise_problems(_instances_in_two_splits(images, sources[0].path))
    if not images:
        raise ManifestError(f"{sources[0].path}: holds no images; write one row per image")
    return Manifest(folder, images)


def read_image_folder(folder: Path) -> Manifest:
    """Read a folder of images: its manifest, its shards, or all image files at any depth.

    A manifest without captions is read, too. Where the folders of splits have manifests, the image
    files beside these folders are included.

    Raises:
        ManifestError: the folder does not exist, holds no image, or its manifest is invalid.
    """
    if not folder.is_dir():
        raise ManifestError(f"{folder}: the folder does not exist")
    sources = find_sources(folder)
    listed = read_manifest(folder, require_captions=False) if sources else None
    if listed is not None and not any(source.prefix for source in sources):
        return listed
    found = find_image_files(folder, without=[source.prefix for source in sources])
    if listed is None and not found.names:
        problem = f"{folder}: holds neither a manifest nor an image"
        raise ManifestError("; ".join([problem, *found.notes]))
    records = (
        ImageRecord(name, folder / name, (), instance=name, split=None, row=0)
        for name in found.names
    )
    files = ImageTable.from_records(chain(listed.images if listed else (), records), folder)
    return Manifest(folder, files, found.notes)


def find_sources(folder: Path) -> list[Source]:
    """Return the manifest of a folder, the manifests of the splits in it, or its shards.

    Raises:
        ManifestError: a folder holds two manifests, or there are shards and manifests of splits.
    """
    if _has_manifest(folder):
        return [Source(_manifest_file(folder))]
    shards = [Source(path) for path in find_shards(folder)]
    splits = [
        Source(_manifest_file(part), part.name, known_split(part.name))
        for part in sorted(folder.iterdir() if folder.is_dir() else ())
        if known_split(part.name) and _has_manifest(part)
    ]
    if shards and splits:
        raise ManifestError(
            f"{folder}: holds shards ({shards[0].path.name}) and {splits[0].path}; keep one kind"
        )
    return splits or shards


def write_manifest(folder: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows as ``metadata.jsonl``, whole or not at all, and return its path."""
    path = folder / MANIFEST_NAMES[0]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _has_manifest(folder: Path) -> bool:
    return any((folder / name).is_file() for name in MANIFEST_NAMES)


def _manifest_file(folder: Path) -> Path:
    found = [folder / name for name in MANIFEST_NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise ManifestError(f"{folder}: holds {' and '.join(p.name for p in found)}; keep one")
    return found[0]


def _digest(sources: list[Source]) -> str:
    """Return a digest that changes with the bytes of a manifest, or size and time of a shard."""
    digest = hashlib.blake2b(_CACHE_VERSION.encode(), digest_size=8)
    for source, prefix, _ in sources:
        if source.suffix == ".tar":
            state = source.stat()
            digest.update(repr((str(source), state.st_size, state.st_mtime_ns)).encode())
        else:
            digest.update(repr((source.name, prefix)).encode())
            with source.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _cache_records(
    sources: list[Source], folder: Path, file: Path, *, require_captions: bool
) -> None:
    """Write the records of a manifest or of shards to an Arrow file, whole or not at all."""
    problems: list[str] = []
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as scratch:
        rows_file, joined_file = Path(scratch) / "rows.arrow", Path(scratch) / "joined.arrow"
        name_hashes = bytearray()
        with record_writer(rows_file) as write:
            for record in read_records(
                sources, folder, problems, require_captions=require_captions
            ):
                name_hashes += _name_hash(record.file_name)
                write(record)
        hashes = np.frombuffer(name_hashes, np.uint64)
        _, first, number = np.unique(hashes, return_index=True, return_inverse=True)
        if len(first) < len(hashes):
            rows = ImageTable.from_file(rows_file, folder)
            grouped = rows.take(np.argsort(first[number], kind="stable"))
            with record_writer(joined_file) as write:
                for record in _join_rows(grouped, sources[0].path, problems):
                    write(record)
            joined_file.replace(rows_file)
        _raise_problems(problems)
        rows_file.replace(file)


def _name_hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _raise_problems(problems: list[str]) -> None:
    if problems:
        raise ManifestError(first_n_lines(problems, _SHOWN_PROBLEMS))


def _join_rows(rows: ImageTable, source: Path, problems: list[str]) -> Iterator[ImageRecord]:
    """Yield one record for all rows of an image, which are consecutive."""
    image: ImageRecord | None = None
    for row in rows:
        if image is None or row.file_name != image.file_name:
            if image is not None:
                yield image
            image = row
            continue
        try:
            image = merge_records(image, row)
        except ValueError as error:
            problems.append(f"{source}:{row.row}: {error}")
    if image is not None:
        yield image


def _draw_missing_splits(images: ImageTable, split: SplitRecipe, seed: int) -> ImageTable:
    names, codes = images.split_codes
    if (codes >= 0).all():
        return images
    instances = images.instance_ids
    known = np.full(instances.max() + 1, -1, np.int16)
    with_split = np.flatnonzero(codes >= 0)[::-1]  # reversed: the first split of an instance counts
    known[instances[with_split]] = codes[with_split]
    codes = np.where(codes < 0, known[instances], codes)
    names += [name for name in ("train", "val", "test") if name not in names]
    for index, instance in enumerate(images.column("instance")):
        if codes[index] < 0:
            codes[index] = names.index(_draw_split(instance, split, seed))
    return images.with_splits(names, codes)


def _draw_split(instance: str, split: SplitRecipe, seed: int) -> str:
    digest = hashlib.blake2b(f"{seed}:{instance}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "big") / 2**64  # uniform in [0, 1)
    if number < split.train:
        return "train"
    return "val" if number < split.train + split.val else "test"


def _instances_in_two_splits(images: ImageTable, source: Path) -> list[str]:
    _, codes = images.split_codes
    instances = images.instance_ids
    _, first = np.unique(instances, return_index=True)
    problems = []
    for index in np.flatnonzero(codes != codes[first][instances]):
        image, earlier = images[int(index)], images[int(first[instances[index]])]
        problems.append(
            f"{source}:{image.row}: instance '{image.instance}' is in split {image.split} here and "
            f"in {earlier.split} on line {earlier.row}; an instance belongs to one split"
        )
    return problems
