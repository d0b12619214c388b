"""Retrieval metrics: arrays in, numbers out.

Ties are resolved pessimistically: a wrong item with the same score as a right one ranks before
it, so a model that gives every item one score gets the worst rank, never the best.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_CHUNK_SCORES = 1 << 22  # scores held at once: 16 MiB of float32


@dataclass(frozen=True)
class RetrievalMetrics:
    """One direction of retrieval. Recalls, ``map`` and ``minp`` in percent; ranks begin at 1.

    ``median_rank`` and ``mean_rank`` are of the first right item; the median is the smallest rank
    within which more than half of the queries have it (authors' code). ``minp`` is the mean
    inverse negative penalty: right items over the rank of the last of them (Ye et al., "Deep
    Learning for Person Re-identification: A Survey and Outlook", section 4.2).
    """

    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    median_rank: float
    mean_rank: float
    map: float
    minp: float


@dataclass(frozen=True)
class Ranks:
    """Ranks of one direction.

    first: (queries,) int64, of the first right item, from 1.
    average_precision: (queries,) float64, in [0, 1].
    inverse_penalty: (queries,) float64, right items over the rank of the last of them.
    """

    first: npt.NDArray[np.int64]
    average_precision: npt.NDArray[np.float64]
    inverse_penalty: npt.NDArray[np.float64]


def recall_at_k(first_ranks: npt.NDArray[np.int64], k: int) -> float:
    """Return the percentage of queries whose first right item is among the first ``k``.

    >>> recall_at_k(np.array([1, 3, 6, 20]), 5)
    50.0
    """
    return float(100 * np.mean(first_ranks <= k))


def retrieval_metrics(ranks: Ranks) -> RetrievalMetrics:
    """Summarise the ranks of one direction."""
    return RetrievalMetrics(
        recall_at_1=recall_at_k(ranks.first, 1),
        recall_at_5=recall_at_k(ranks.first, 5),
        recall_at_10=recall_at_k(ranks.first, 10),
        median_rank=float(np.sort(ranks.first)[len(ranks.first) // 2]),
        mean_rank=float(np.mean(ranks.first)),
        map=float(100 * np.mean(ranks.average_precision)),
        minp=float(100 * np.mean(ranks.inverse_penalty)),
    )


@torch.no_grad()
def rank_relevant(
    queries: Tensor, gallery: Tensor, query_instances: Tensor, gallery_instances: Tensor
) -> Ranks:
    """Rank the gallery by dot product for every query and find the items of its instance.

    Memory is that of a chunk of scores, never of the whole matrix.

    Args:
        queries: (q, dim) float. gallery: (g, dim) float.
        query_instances: (q,) int64. gallery_instances: (g,) int64.

    Raises:
        ValueError: shapes disagree, a value is not finite, or a query has no right item.

    Example:
        >>> eye = torch.eye(2)
        >>> rank_relevant(eye, eye, torch.tensor([0, 1]), torch.tensor([1, 0])).first.tolist()
        [2, 2]
    """
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} numbers, the gallery {gallery.shape[1]}")
    if not (_is_finite(queries) and _is_finite(gallery)):
        raise ValueError("embeddings hold NaN or infinity")
    relevant, counts = _relevant_items(query_instances, gallery_instances)
    first = np.empty(len(queries), np.int64)
    average_precision = np.empty(len(queries), np.float64)
    inverse_penalty = np.empty(len(queries), np.float64)
    rows = max(1, _CHUNK_SCORES // max(1, len(gallery)))
    for start in range(0, len(queries), rows):
        chunk = slice(start, start + rows)
        scores = queries[chunk] @ gallery.T
        first[chunk], average_precision[chunk], inverse_penalty[chunk] = _rank_chunk(
            scores, relevant[chunk, : int(counts[chunk].max())], counts[chunk]
        )
    return Ranks(first, average_precision, inverse_penalty)


def _is_finite(vectors: Tensor) -> bool:
    """Tell whether all values are finite without a temporary as large as they are."""
    return bool(torch.isfinite(torch.stack(torch.aminmax(vectors))).all())


def _relevant_items(query_instances: Tensor, gallery_instances: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gallery items of each query, (q, most) int64, and how many there are, (q,)."""
    ordered, order = torch.sort(gallery_instances, stable=True)
    begin = torch.searchsorted(ordered, query_instances)
    counts = torch.searchsorted(ordered, query_instances, right=True) - begin
    if bool((counts == 0).any()):
        missing = int((counts == 0).nonzero()[0])
        raise ValueError(f"query {missing} has no right item in the gallery")
    places = begin[:, None] + torch.arange(int(counts.max()))
    return order[places.clamp(max=len(order) - 1)], counts


def _rank_chunk(
    scores: Tensor, relevant: Tensor, counts: Tensor
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rank right items among the wrong ones of each row: ranks are counted, nothing is sorted."""
    exists = torch.arange(relevant.shape[1]) < counts[:, None]
    right_scores = scores.gather(1, relevant).masked_fill(~exists, -torch.inf)
    right_scores = right_scores.sort(dim=1, descending=True).values
    # Only wrong items are left to be counted.
    scores.scatter_(1, relevant.where(exists, relevant[:, :1]), -torch.inf)
    wrong_before = torch.stack(
        [(scores >= column[:, None]).sum(dim=1) for column in right_scores.unbind(1)], dim=1
    )
    place = torch.arange(1, relevant.shape[1] + 1)
    precision = (place / (place + wrong_before).double()).masked_fill(~exists, 0.0)
    last = wrong_before.gather(1, counts[:, None] - 1).squeeze(1) + counts
    return (
        (wrong_before[:, 0] + 1).numpy(),
        (precision.sum(dim=1) / counts).numpy(),
        (counts.double() / last).numpy(),
    )


def as_dict(metrics: RetrievalMetrics) -> dict[str, Any]:
    """Return the metrics by name."""
    return asdict(metrics)
