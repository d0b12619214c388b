"""Captions at every start of the paper's text CNN with unmasked padding (section 5.1)."""

import numpy as np

from dualpath.types import IntArray


def place_everywhere(token_ids: IntArray, positions: int) -> tuple[IntArray, IntArray]:
    """Move each caption to each start at which it fits.

    Args:
        token_ids: (captions, words) int64, left-aligned and padded with 0.
        positions: length of the axis on which captions are placed.

    Returns:
        Token ids, (placements, positions) int64, and the caption of each placement, (placements,),
        in ascending order.

    >>> placed, owners = place_everywhere(np.array([[7, 8], [9, 0]]), positions=3)
    >>> placed.tolist()
    [[7, 8, 0], [0, 7, 8], [9, 0, 0], [0, 9, 0], [0, 0, 9]]
    >>> owners.tolist()
    [0, 0, 1, 1, 1]
    """
    lengths = np.maximum((token_ids != 0).sum(axis=1), 1)
    counts = positions - lengths + 1
    owners = np.repeat(np.arange(len(token_ids)), counts)
    starts = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
    source = np.arange(positions) - starts[:, None]
    inside = (source >= 0) & (source < lengths[owners, None])
    last = token_ids.shape[1] - 1
    return token_ids[owners[:, None], source.clip(0, last)] * inside, owners
