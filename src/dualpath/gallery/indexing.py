"""Indexing images into a gallery.

An interruption, even a killed process, loses at most the images that are not yet written. The next
call skips the images that are already indexed.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualpath.data.images import find_image_file
from dualpath.data.json_values import gallery_metadata
from dualpath.data.manifest import read_image_folder
from dualpath.data.record import ImageRecord
from dualpath.errors import GalleryError, ImageError
from dualpath.gallery.info import GalleryInfo, register_fields
from dualpath.gallery.pipeline import (
    IndexResult,
    IndexTask,
    PreparedImage,
    StoredState,
    prepare_new_image,
    record_metadata,
    try_prepare,
    write_images,
)
from dualpath.gallery.schema import IMAGES, GalleryImage, image_id
from dualpath.gallery.stores.base import Store
from dualpath.types import Progress, expect, no_progress

if TYPE_CHECKING:
    from dualpath.inference.model import DualPath

_DECODE_AHEAD = 64  # images
_LOOKUP = 1_000  # images whose stored state is read at once
_WRITE = 128  # images in one write; a killed process loses at most these


@dataclass
class IndexSummary:
    """The result of indexing a folder.

    Attributes:
        new: number of images that were added.
        changed: number of images that were written again because they have changed.
        unchanged: number of images that were skipped.
        broken: the images that were left out, with the reason.
        notes: what else was not read, a line each, such as ``3 videos, 1 RAW not indexed``.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


# Processes tasks and yields each with its result, in any order.
Runner = Callable[["Indexer", Iterator[IndexTask]], Iterator[tuple[IndexTask, IndexResult]]]


class Indexer:
    """Adds images to the store of a gallery.

    Attributes:
        store: of the gallery.
        model: embeds images and captions.
        info: the record of the gallery. Adding images updates it.
        address: of the gallery, for messages and for processes on other machines.
    """

    def __init__(self, store: Store, model: "DualPath", info: GalleryInfo, *, address: str) -> None:
        self.store = store
        self.model = model
        self.info = info
        self.address = address

    def add_folder(
        self,
        folder: Path,
        roots: Sequence[Path] = (),
        *,
        runner: Runner | None = None,
        progress: Progress = no_progress,
    ) -> IndexSummary:
        """Index a folder; see :meth:`dualpath.gallery.gallery.Gallery.add`.

        Args:
            folder: with a manifest or without.
            roots: more folders that images of the manifest may be in.
            runner: processes the images. None: threads of this process.
            progress: called with the number of images finished since the last call.

        Raises:
            ManifestError: the manifest is not valid.
            GalleryError: a folder does not exist, or metadata does not fit the gallery's fields.
        """
        folder = folder.resolve()
        allowed = [folder, *(root.resolve() for root in roots)]
        for root in allowed:
            if not root.is_dir():
                raise GalleryError(f"{root}: the folder does not exist")
        manifest = read_image_folder(folder)
        records = manifest.images
        summary = IndexSummary(notes=manifest.notes)
        permitted = _permitted_images(records, folder, allowed, {})
        self._register(allowed, ((r.file_name, record_metadata(r)) for _, r in permitted))
        expect(progress, len(records))
        tasks = _tasks(_permitted_images(records, folder, allowed, summary.broken), self.store)
        finished = self._process((runner or run_in_threads)(self, tasks), summary, progress)
        progress(len(records) - finished)
        if summary.new or summary.changed:
            with self.store.write_lock():
                self.store.optimize()
        return summary

    def add_image(
        self, path: Path, *, captions: Sequence[str] = (), metadata: Mapping[str, Any] | None = None
    ) -> GalleryImage:
        """Index one image file; see :meth:`dualpath.gallery.gallery.Gallery.add_image`."""
        record = ImageRecord(
            path.name,
            path,
            tuple(captions),
            instance=path.name,
            split=None,
            row=0,
            metadata=gallery_metadata(metadata or {}),
        )
        self._register([], [(record.file_name, record.metadata)])
        prepared = prepare_new_image(path, record, self.model)
        write_images(self.store, self.info.fields, self.model, [prepared])
        return prepared.image

    def _register(
        self, roots: Sequence[Path], records: Iterable[tuple[str, Mapping[str, Any]]]
    ) -> None:
        self.info = register_fields(self.store, self.address, self.info, roots, records)

    def _process(
        self,
        results: Iterator[tuple[IndexTask, IndexResult]],
        summary: IndexSummary,
        progress: Progress,
    ) -> int:
        """Write the results and count them in ``summary``. Return the number of images."""
        finished = 0
        pending: list[PreparedImage] = []
        for task, result in results:
            if isinstance(result, ImageError):
                summary.broken[task.record.file_name] = str(result)
            elif result is None:
                summary.unchanged += 1
            else:
                if isinstance(result, PreparedImage):
                    pending.append(result)
                summary.new += task.stored is None
                summary.changed += task.stored is not None
            if len(pending) == _WRITE:
                write_images(self.store, self.info.fields, self.model, pending)
                pending = []
            progress(1)
            finished += 1
        write_images(self.store, self.info.fields, self.model, pending)
        return finished


def run_in_threads(
    indexer: Indexer, tasks: Iterator[IndexTask]
) -> Iterator[tuple[IndexTask, IndexResult]]:
    """Read and decode images in threads, ahead of the images that the caller embeds."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def submit() -> list[tuple[IndexTask, Future[PreparedImage | ImageError | None]]]:
            chunk = islice(tasks, _DECODE_AHEAD)
            return [(task, pool.submit(try_prepare, task, indexer.model)) for task in chunk]

        following = submit()
        while following:
            current, following = following, submit()
            yield from ((task, future.result()) for task, future in current)


def _permitted_images(
    records: Sequence[ImageRecord], folder: Path, allowed: Sequence[Path], broken: dict[str, str]
) -> Iterator[tuple[Path, ImageRecord]]:
    """Yield the images that may be indexed, with their absolute paths.

    The reasons against the other images are added to ``broken``, by their names.
    """
    seen: set[bytes] = set()
    for record in records:
        path = find_image_file(Path(os.path.normpath(folder / record.file_name)))
        path = Path(os.path.normpath(path))
        digest = blake2b(str(path).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in seen:
            broken[record.file_name] = (
                f"{record.file_name}: listed more than once; only the first row is used"
            )
        elif not _is_valid_unicode(str(path)):
            name = record.file_name.encode("utf-8", "backslashreplace").decode()
            broken[name] = f"{name}: the file name is not valid Unicode; rename the file"
        elif not any(Path(os.path.realpath(path)).is_relative_to(root) for root in allowed):
            broken[record.file_name] = f"{path}: outside of {folder}; allow its folder with --root"
        else:
            seen.add(digest)
            yield path, record


def _is_valid_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _tasks(images: Iterator[tuple[Path, ImageRecord]], store: Store) -> Iterator[IndexTask]:
    """Add to each image what the gallery has stored about it; read many images at once."""
    while chunk := {image_id(path): (path, record) for path, record in islice(images, _LOOKUP)}:
        stored = {
            row["id"]: StoredState(*(row[name] for name in StoredState._fields))
            for row in store.get(IMAGES, "id", list(chunk))
        }
        for identifier, (path, record) in chunk.items():
            yield IndexTask(path, record, stored.get(identifier))
