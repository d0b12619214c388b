"""Retrieval metrics: arrays in, numbers out.

Ties are resolved pessimistically: a wrong item with the same score as a right one ranks before it,
so a model that gives every item the same score gets the worst rank, never the best.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dualpath.errors import MetricError
from dualpath.types import IntArray, Vectors

_CHUNK_SCORES = 1 << 22  # scores held at once: 16 MiB of float32


@dataclass(frozen=True)
class RetrievalMetrics:
    """The metrics of one direction of retrieval.

    Attributes:
        recall_at_1, recall_at_5, recall_at_10: percentage of queries with a right item among the
            first K.
        median_rank: of the first right item, from 1: the smallest rank within which more than half
            of the queries have a right item (authors' code).
        mean_rank: of the first right item, from 1.
        map: mean over the queries of the average precision over all right items, percent.
        map_trapezoidal: the same with the area of the authors' code, which takes the mean of the
            precisions at and before each right item. None if the ranks were not counted for it.
        minp: mean inverse negative penalty, percent: number of right items divided by the rank of
            the last of them (Ye et al., "Deep Learning for Person Re-identification: A Survey and
            Outlook", section 4.2).
    """

    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    median_rank: float
    mean_rank: float
    map: float
    minp: float
    map_trapezoidal: float | None = None


@dataclass(frozen=True)
class Ranks:
    """The ranks of one direction, for each query.

    Attributes:
        first: (queries,) int64, rank of the first right item, from 1.
        average_precision: (queries,) float64, in [0, 1].
        inverse_penalty: (queries,) float64, number of right items divided by the rank of the last.
        trapezoidal_precision: (queries,) float64, in [0, 1]: the area below precision over recall
            by the trapezoidal rule, from a precision of 1 before the first item (authors' code).
    """

    first: IntArray
    average_precision: npt.NDArray[np.float64]
    inverse_penalty: npt.NDArray[np.float64]
    trapezoidal_precision: npt.NDArray[np.float64] | None = None


def recall_at_k(first_ranks: IntArray, k: int) -> float:
    """Return the percentage of queries whose first right item is among the first ``k``.

    >>> recall_at_k(np.array([1, 3, 6, 20]), 5)
    50.0
    """
    return float(100 * np.mean(first_ranks <= k))


def retrieval_metrics(ranks: Ranks) -> RetrievalMetrics:
    """Summarise the ranks of one direction.

    >>> ranks = Ranks(np.array([1, 2]), np.array([1.0, 0.5]), np.array([1.0, 0.5]))
    >>> metrics = retrieval_metrics(ranks)
    >>> metrics.recall_at_1, metrics.mean_rank, metrics.map
    (50.0, 1.5, 75.0)
    """
    return RetrievalMetrics(
        recall_at_1=recall_at_k(ranks.first, 1),
        recall_at_5=recall_at_k(ranks.first, 5),
        recall_at_10=recall_at_k(ranks.first, 10),
        median_rank=float(np.sort(ranks.first)[len(ranks.first) // 2]),
        mean_rank=float(np.mean(ranks.first)),
        map=float(100 * np.mean(ranks.average_precision)),
        minp=float(100 * np.mean(ranks.inverse_penalty)),
        map_trapezoidal=(
            None
            if ranks.trapezoidal_precision is None
            else float(100 * np.mean(ranks.trapezoidal_precision))
        ),
    )


def rank_relevant(
    queries: Vectors, gallery: Vectors, query_instances: IntArray, gallery_instances: IntArray
) -> Ranks:
    """Rank the gallery by dot product for every query, and find the items of the query's instance.

    Needs the memory of a chunk of scores, never that of the whole matrix.

    Args:
        queries: (q, dim) float32.
        gallery: (g, dim) float32.
        query_instances: (q,) int64.
        gallery_instances: (g,) int64.

    Raises:
        MetricError: dimensions differ, a value is not finite, or a query has no right item.

    >>> eye = np.eye(2, dtype=np.float32)
    >>> rank_relevant(eye, eye, np.array([0, 1]), np.array([1, 0])).first.tolist()
    [2, 2]
    """
    if queries.shape[1] != gallery.shape[1]:
        raise MetricError(
            f"queries have {queries.shape[1]} dimensions, the gallery {gallery.shape[1]}"
        )
    if not (_is_finite(queries) and _is_finite(gallery)):
        raise MetricError("embeddings contain NaN or infinity")
    relevant, counts = _relevant_items(query_instances, gallery_instances)
    first = np.empty(len(queries), np.int64)
    average_precision = np.empty(len(queries), np.float64)
    inverse_penalty = np.empty(len(queries), np.float64)
    trapezoidal = np.empty(len(queries), np.float64)
    rows = max(1, _CHUNK_SCORES // max(1, len(gallery)))
    for start in range(0, len(queries), rows):
        chunk = slice(start, start + rows)
        scores = queries[chunk] @ gallery.T
        ranks = _rank_chunk(scores, relevant[chunk, : int(counts[chunk].max())], counts[chunk])
        first[chunk], average_precision[chunk] = ranks.first, ranks.average_precision
        inverse_penalty[chunk], trapezoidal[chunk] = ranks[2:]
    return Ranks(first, average_precision, inverse_penalty, trapezoidal)


def _is_finite(vectors: Vectors) -> bool:
    """Return whether all values are finite, without a temporary array of the same size."""
    return not vectors.size or bool(np.isfinite(vectors.min()) and np.isfinite(vectors.max()))


def _relevant_items(
    query_instances: IntArray, gallery_instances: IntArray
) -> tuple[IntArray, IntArray]:
    """Return the right items of each query, (q, most) int64, and their number, (q,)."""
    order = np.argsort(gallery_instances, kind="stable")
    ordered = gallery_instances[order]
    begin = np.searchsorted(ordered, query_instances, side="left")
    counts = np.searchsorted(ordered, query_instances, side="right") - begin
    if (counts == 0).any():
        raise MetricError(f"query {int(np.argmin(counts))} has no right item in the gallery")
    places = begin[:, None] + np.arange(int(counts.max()))
    return order[np.minimum(places, len(order) - 1)], counts


class _ChunkRanks(NamedTuple):
    """The ranks of a chunk of queries; the fields are those of :class:`Ranks`."""

    first: IntArray
    average_precision: npt.NDArray[np.float64]
    inverse_penalty: npt.NDArray[np.float64]
    trapezoidal_precision: npt.NDArray[np.float64]


def _rank_chunk(scores: Vectors, relevant: IntArray, counts: IntArray) -> _ChunkRanks:
    """Rank right items among the wrong ones of each row by counting; nothing is sorted.

    Args:
        scores: (q, g) float32; overwritten.
        relevant: (q, most).
        counts: (q,).
    """
    exists = np.arange(relevant.shape[1]) < counts[:, None]
    right_scores = np.where(exists, np.take_along_axis(scores, relevant, axis=1), -np.inf)
    right_scores = -np.sort(-right_scores, axis=1)
    # Right items are removed, so that only wrong ones are counted.
    np.put_along_axis(scores, np.where(exists, relevant, relevant[:, :1]), -np.inf, axis=1)
    wrong_before = np.stack(
        [np.count_nonzero(scores >= column[:, None], axis=1) for column in right_scores.T], axis=1
    )
    place = np.arange(1, relevant.shape[1] + 1)
    precision = np.where(exists, place / (place + wrong_before), 0.0)
    last = np.take_along_axis(wrong_before, counts[:, None] - 1, axis=1).squeeze(1) + counts
    # The precision one place before each right item; 1 before the first place.
    before = np.maximum(place + wrong_before - 1, 1)
    earlier = np.where(place + wrong_before == 1, 1.0, (place - 1) / before) * exists
    return _ChunkRanks(
        wrong_before[:, 0] + 1,
        precision.sum(axis=1) / counts,
        counts / last,
        (precision + earlier).sum(axis=1) / (2 * counts),
    )
