"""A view of one version of a table, which searches it in memory."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

import numpy as np

from dualpath.gallery.derived.cells import Allowed, Cells
from dualpath.gallery.derived.part import Part
from dualpath.gallery.filters import Condition
from dualpath.gallery.stores.base import Row
from dualpath.types import IntArray, Mask, Vectors

EXACT_ROWS = 5_000  # as many are compared in about a millisecond
_GATHERED_ROWS = 2_000  # as many are copied and compared faster than the cells select them
_FILTERS = 64  # whose rows are remembered
_CHUNK = 20_000  # rows compared at a time


class _Choice(NamedTuple):
    """The rows that a filter leaves: of all rows, and prepared for the cells."""

    mask: Mask
    rows: int
    in_cells: Allowed | None


@dataclass(frozen=True)
class View:
    """One version of a table.

    Attributes:
        state: of the table (:meth:`Store.state`).
        base: the rows that ``cells`` contains.
        fresh: rows that were written later.
        alive: for each row of base and fresh, whether this version has it.
        cells: of the base. None: searches compare all rows.
    """

    state: str
    base: Part
    fresh: Part
    alive: Mask
    cells: Cells | None
    _choices: OrderedDict[Condition | None, _Choice] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    @property
    def is_worn(self) -> bool:
        """Whether so much has changed that the cells should be built again."""
        return len(self.fresh) > EXACT_ROWS or 5 * int(self.alive.sum()) < 4 * len(self.alive)

    def search(
        self, queries: Vectors, top: int, where: Condition | None
    ) -> list[list[tuple[Row, float]]]:
        """Return for each query the ``top`` nearest rows, best first, and their cosines.

        Args:
            queries: unit vectors, (queries, dim).
            top: number of rows.
            where: a filter. None: all rows.
        """
        choice = self._choose(where)
        top = min(top, choice.rows)
        if not top:
            return [[] for _ in queries]
        if choice.in_cells is None:
            rows, scores = self._search_exactly(queries, top, np.flatnonzero(choice.mask))
        else:
            rows, scores = self._search_cells(queries, top, choice)
        return [
            [(self._row(number), score) for number, score in zip(*pair, strict=True)]
            for pair in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _row(self, number: int) -> Row:
        base = len(self.base)
        return self.base.row(number) if number < base else self.fresh.row(number - base)

    def _choose(self, where: Condition | None) -> _Choice:
        """Return the rows of a filter, which are remembered for the next search."""
        with self._lock:
            choice = self._choices.get(where)
            if choice is not None:
                self._choices.move_to_end(where)
                return choice
        mask = self.alive
        if where is not None:
            from dualpath.gallery.derived.masks import evaluate  # only filters need pyarrow.compute

            parts = [evaluate(where, part.fields, len(part)) for part in (self.base, self.fresh)]
            mask = mask & np.concatenate(parts)
        in_base = mask[: len(self.base)]
        few = int(in_base.sum()) <= _GATHERED_ROWS
        in_cells = None if self.cells is None or few else self.cells.allow(in_base)
        choice = _Choice(mask, int(mask.sum()), in_cells)
        with self._lock:
            self._choices[where] = choice
            while len(self._choices) > _FILTERS:
                self._choices.popitem(last=False)
        return choice

    def _search_exactly(
        self, queries: Vectors, top: int, rows: IntArray
    ) -> tuple[IntArray, Vectors]:
        scores = [queries @ vectors.T for vectors in self._vectors(rows)]
        return _best(np.broadcast_to(rows, (len(queries), len(rows))), np.hstack(scores), top)

    def _search_cells(
        self, queries: Vectors, top: int, choice: _Choice
    ) -> tuple[IntArray, Vectors]:
        cells, allowed, base = self.cells, choice.in_cells, len(self.base)
        if cells is None or allowed is None:
            raise ValueError("the view has no cells")
        # The nearest rows that a filter leaves are farther away than the nearest of all, but fewer
        # of them need to be compared. The exponent was measured (benchmarks/derived_index.py).
        share = int(allowed.per_cell.sum()) / base
        coverage = max(round(cells.coverage * share ** (1 / 3)), 20 * top)
        # Codes of eight bits may change the order of near neighbours, so more than `top` are taken.
        rows = cells.candidates(queries, 2 * top + 20, allowed, coverage)
        vectors = self.base.vectors[rows]
        scores = np.matmul(vectors, queries[:, :, None])[:, :, 0]
        scores[rows < 0] = -np.inf
        fresh = base + np.flatnonzero(choice.mask[base:])
        if len(fresh):
            rows = np.hstack([rows, np.broadcast_to(fresh, (len(queries), len(fresh)))])
            scores = np.hstack([scores, queries @ self.fresh.vectors[fresh - base].T])
        return _best(rows, scores, top)

    def _vectors(self, rows: IntArray) -> Iterator[Vectors]:
        """Yield the vectors of rows, in order, without copying parts of which all are taken."""
        base = len(self.base)
        first = int(np.searchsorted(rows, base))
        for part, numbers in ((self.base, rows[:first]), (self.fresh, rows[first:] - base)):
            if len(numbers) == len(part):
                yield part.vectors
            else:
                for start in range(0, len(numbers), _CHUNK):
                    yield part.vectors[numbers[start : start + _CHUNK]]


def _best(rows: IntArray, scores: Vectors, top: int) -> tuple[IntArray, Vectors]:
    """Return the ``top`` best of each line, best first; of equal scores, the first rows."""
    lines = np.arange(len(rows))[:, None]
    if top < scores.shape[1]:
        chosen = np.argpartition(-scores, top - 1, axis=1)[:, :top]
        rows, scores = rows[lines, chosen], scores[lines, chosen]
    order = np.lexsort((rows, -scores), axis=1)
    return rows[lines, order], scores[lines, order]
