"""Searching a store through views of its tables, which are built and updated in the background.

A search always answers from the current version of the store:

- If the view is of this version, it answers. This is checked for every search, in microseconds.
- A process that has just started opens the files of a small table's view, if they are current.
- If little has changed since, the view is updated first.
- Otherwise the store itself answers, and a view is built in the background.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import CancelledError
from threading import Event, Lock, Thread
from typing import NamedTuple

import numpy as np

from dualpath.gallery.derived.build import (
    build_view,
    catch_up,
    open_saved_view,
    save_small_view,
)
from dualpath.gallery.derived.view import View
from dualpath.gallery.filters import Condition
from dualpath.gallery.schema import COLUMNS, TableName
from dualpath.gallery.stores.base import Row, Store, Versions
from dualpath.types import Vectors

_SEARCHES_WITHOUT_VIEW = 1  # of one object: reading all rows does not pay for a single search
_STOP_SECONDS = 30
log = logging.getLogger("dualpath.gallery")


class VectorQuery(NamedTuple):
    """What to search for.

    Attributes:
        vector: unit vector, (dim,).
        top: number of rows.
        where: a filter. None: all rows.
    """

    vector: Vectors
    top: int
    where: Condition | None


Found = list[tuple[Row, float]]  # rows without their vectors, best first, and their cosines


class Searcher:
    """Searches the tables of a store. It may be used from several threads.

    Args:
        store: of the gallery.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        versions = store.versions
        self._indices: dict[TableName, _TableIndex] = (
            {} if versions is None else {table: _TableIndex(versions, table) for table in COLUMNS}
        )

    def search(self, table: TableName, queries: Sequence[VectorQuery]) -> list[Found]:
        """Return the rows nearest to each query."""
        index = self._indices.get(table)
        view = None if index is None else index.current()
        if view is None:
            return [self._store.search(table, *query) for query in queries]
        groups: dict[tuple[int, Condition | None], list[int]] = {}
        for number, query in enumerate(queries):
            groups.setdefault((query.top, query.where), []).append(number)
        found: dict[int, Found] = {}
        for (top, where), numbers in groups.items():
            vectors = _normalize(np.stack([queries[number].vector for number in numbers]))
            found.update(zip(numbers, view.search(vectors, top, where), strict=True))
        return [found[number] for number in range(len(queries))]

    def prepare(self, table: TableName) -> None:
        """Start to build the view of a table now, in the background."""
        if table in self._indices:
            self._indices[table].prepare()

    def save(self, table: TableName) -> None:
        """Write the view of a small table to files, for processes that start later."""
        if self._store.versions is not None:
            save_small_view(self._store.versions, table)

    def wait(self, table: TableName, seconds: float) -> bool:
        """Wait until no view is being built. Return whether the table has a current view."""
        return table in self._indices and self._indices[table].wait(seconds)

    def close(self) -> None:
        """Stop building. Later searches start again."""
        for index in self._indices.values():
            index.close()


class _TableIndex:
    """The view of one table."""

    def __init__(self, versions: Versions, table: TableName) -> None:
        self._versions, self._table = versions, table
        self._view: View | None = None
        self._searches = 0
        self._lock = Lock()
        self._stop = Event()
        self._thread: Thread | None = None
        self._useless_state: str | None = None  # of which no view could be built

    def current(self) -> View | None:
        """Return a view of the current version. None: the store must be searched."""
        state = self._versions.state(self._table)
        if state is None:
            return None
        view = self._view
        if view is not None and view.state == state:
            return view
        with self._lock:
            if self._view is None and not self._searches:
                self._view = open_saved_view(self._versions, self._table, state)
            if self._view is None:
                self._searches += 1
                if self._searches > _SEARCHES_WITHOUT_VIEW:
                    self._start(state)
                return None
            if self._view.state != state:
                pinned = self._versions.pin(self._table)
                old, self._view = self._view, None
                if pinned is not None:
                    self._view = catch_up(old, pinned, self._table)
            if self._view is None or self._view.is_worn:
                self._start(state)
            return self._view

    def prepare(self) -> None:
        if self.current() is None:
            state = self._versions.state(self._table)
            with self._lock:
                if state is not None and self._view is None:
                    self._start(state)

    def wait(self, seconds: float) -> bool:
        thread = self._thread
        if thread is not None:
            thread.join(seconds)
        return self.current() is not None

    def close(self) -> None:
        self._stop.set()
        thread = self._thread
        if thread is not None:
            thread.join(_STOP_SECONDS)
        with self._lock:
            self._view, self._searches = None, 0
            self._stop = Event()

    def _start(self, state: str) -> None:
        """Start to build a view, unless this is being done. The caller has the lock."""
        running = self._thread is not None and self._thread.is_alive()
        if running or state == self._useless_state:
            return
        name = f"index of {self._table}"
        self._thread = Thread(target=self._build, args=(state, self._stop), name=name, daemon=True)
        self._thread.start()

    def _build(self, state: str, stop: Event) -> None:
        view = None
        try:
            view = build_view(self._versions, self._table, stop.is_set)
        except CancelledError:
            return
        except Exception as error:
            # Whatever is wrong with a derived index, the store answers.
            log.warning(
                "%s: no index in memory, searches are slower (%s)", self._versions.folder, error
            )
        with self._lock:
            if stop.is_set():
                return
            self._view = view or self._view
            self._useless_state = None if view is not None else state


def _normalize(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32, copy=False)
    return unit
