"""Building the view of a table, and bringing a view up to date."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock, Timeout

from dualpath.gallery.derived import files
from dualpath.gallery.derived.cells import Cells
from dualpath.gallery.derived.part import Part, join, to_parts
from dualpath.gallery.derived.view import EXACT_ROWS, View
from dualpath.gallery.schema import CAPTIONS, IMAGES, TableName
from dualpath.gallery.stores.base import PinnedTable, Versions
from dualpath.types import Mask, Vectors

MAX_FRESH = 10 * EXACT_ROWS  # rows written since the build; above, the store itself searches
_CHECKED_ROWS = 16
_SAMPLE = 64  # queries of each kind, to choose how many rows a search compares
_LOCK_SECONDS = 0.5

_T = TypeVar("_T")


def build_view(versions: Versions, table: TableName, is_stopped: Callable[[], bool]) -> View | None:
    """Return a view of the current version of a table.

    A small table is read into memory, and written to files for :func:`open_saved_view`. For a large
    one, the files that this or another process has written are used; if they are missing, damaged
    or too old, they are written again.

    Args:
        versions: of the tables.
        table: to read.
        is_stopped: called regularly; whether to stop.

    Returns:
        The view. None: the vectors have no structure that an index can use, or the engine has no
        versions.

    Raises:
        CancelledError: ``is_stopped`` has returned true.
        OSError: the files cannot be written.
    """
    pinned = versions.pin(table)
    if pinned is None:
        return None
    dim = pinned.vector_length()
    if pinned.count() <= EXACT_ROWS:
        base = join(list(_until(to_parts(table, pinned.read(), dim), is_stopped)), dim)
        _save(versions.folder, table, pinned.state, base)
        return View(pinned.state, base, join([], dim), np.ones(len(base), bool), None)
    folder = versions.folder
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / f"{table}.lock", is_stopped):
        view = files.open_view(folder, table)
        if view is not None and view.fresh.vectors.shape[1] == dim:
            view = catch_up(view, pinned, table)
            if view is not None and view.cells is not None and not view.is_worn:
                return view
        if not _write(versions, table, pinned, is_stopped):
            return None
        return files.open_view(folder, table)


def open_saved_view(versions: Versions, table: TableName, state: str) -> View | None:
    """Return the view of a small table from its files, without opening the store.

    None: the files are missing, damaged or of another version, or the table is large.
    """
    return files.open_view(versions.folder, table, state, EXACT_ROWS)


def save_small_view(versions: Versions, table: TableName) -> None:
    """Write the files of a small table. Of a large one, or if they are current, do nothing."""
    pinned = versions.pin(table)
    if pinned is None or pinned.count() > EXACT_ROWS:
        return
    if open_saved_view(versions, table, pinned.state) is None:
        parts = list(to_parts(table, pinned.read(), pinned.vector_length()))
        _save(versions.folder, table, pinned.state, join(parts, pinned.vector_length()))


def _save(folder: Path, table: TableName, state: str, base: Part) -> None:
    """Write a view without cells. If another process writes, or nothing can be written, do not."""
    dim = base.vectors.shape[1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(folder / f"{table}.lock", timeout=0),
            files.new_folder(folder, table) as path,
        ):
            for _ in files.write_part(path, [base], dim):
                pass
            files.write_header(path, state, dim, len(base), None)
    except (OSError, Timeout):
        return


def catch_up(view: View, pinned: PinnedTable, table: TableName) -> View | None:
    """Return a view of a later version of a table, which shares the arrays of an earlier view.

    Returns:
        The view. None: too much has changed, or the earlier view is not one of this table.
    """
    if view.state == pinned.state:
        return view
    current = pinned.row_ids()
    known = np.concatenate([view.base.row_ids, view.fresh.row_ids])
    alive: Mask = np.isin(known, current, assume_unique=True)
    new = current[~np.isin(current, known, assume_unique=True)]
    if len(new) + len(view.fresh) > MAX_FRESH or 2 * int(alive.sum()) < len(view.base):
        return None
    if not _has_rows(pinned, view, np.flatnonzero(alive), table):
        return None
    fresh = view.fresh
    if len(new):
        dim = fresh.vectors.shape[1]
        fresh = join([fresh, *to_parts(table, pinned.read(new), dim)], dim)
        alive = np.concatenate([alive, np.ones(len(new), bool)])
    return View(pinned.state, view.base, fresh, alive, view.cells)


def _has_rows(pinned: PinnedTable, view: View, numbers: np.ndarray, table: TableName) -> bool:
    """Return whether the table has some of the rows of a view as the view has them.

    Row ids say which rows have changed, unless the table was deleted and written again.
    """
    if not len(numbers):
        return True
    base, dim = len(view.base), view.fresh.vectors.shape[1]
    for number in np.random.default_rng().choice(numbers, _CHECKED_ROWS).tolist():
        part, row = (view.base, number) if number < base else (view.fresh, number - base)
        stored = join(list(to_parts(table, pinned.read(part.row_ids[row : row + 1]), dim)), dim)
        same = len(stored) == 1 and np.allclose(stored.vectors[0], part.vectors[row], atol=1e-6)
        if not same or stored.row(0) != part.row(row):
            return False
    return True


def _write(
    versions: Versions,
    table: TableName,
    pinned: PinnedTable,
    is_stopped: Callable[[], bool],
) -> bool:
    """Write the files of a table. Return whether an index suits its vectors."""
    dim = pinned.vector_length()
    with files.new_folder(versions.folder, table) as path:
        parts = to_parts(table, pinned.read(), dim)
        for _ in _until(files.write_part(path, parts, dim), is_stopped):
            pass
        base = files.open_part(path, dim)
        cells = [step for step in _until(Cells.build(base.vectors), is_stopped) if step][-1]
        if not cells.tune(base.vectors, _sample_queries(versions, table, base.vectors)):
            return False
        files.write_header(path, pinned.state, dim, len(base), cells)
    return True


def _sample_queries(versions: Versions, table: TableName, vectors: Vectors) -> list[Vectors]:
    """Return vectors like those that will be searched for: images, and texts if there are some."""
    generator = np.random.default_rng(0)
    samples = [vectors[np.sort(generator.choice(len(vectors), _SAMPLE, replace=False))]]
    other: TableName = CAPTIONS if table == IMAGES else IMAGES
    pinned = versions.pin(other)
    row_ids = pinned.row_ids() if pinned is not None else ()
    if pinned is not None and len(row_ids):
        some = generator.choice(row_ids, min(_SAMPLE, len(row_ids)), replace=False)
        dim = vectors.shape[1]
        samples.append(join(list(to_parts(other, pinned.read(some), dim)), dim).vectors)
    return samples


def _until(steps: Iterable[_T], is_stopped: Callable[[], bool]) -> Iterator[_T]:
    for step in steps:
        if is_stopped():
            raise CancelledError
        yield step


def _lock(path: Path, is_stopped: Callable[[], bool]) -> FileLock:
    """Return a lock that only this process has. Wait until another process has released it."""
    lock = FileLock(path, thread_local=False)
    while True:
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            if is_stopped():
                raise CancelledError from None
        else:
            return lock
