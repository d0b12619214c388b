"""Positions of captions as packed rows: one row for each position that exists.

A convolution over the words of a caption is a matrix product over rows and their neighbours, so
padding costs nothing. Rows are counted from 1. Row 0 stands for a missing row and reads as zeros.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Neighbours(NamedTuple):
    """The input rows that each output row of a convolution reads.

    Attributes:
        previous: (rows,) int64, from 1; 0 is a missing row.
        current: the same. None: the rows stay as they are.
    """

    previous: Tensor
    current: Tensor | None


def number_rows(present: Tensor) -> Tensor:
    """Number the positions that exist, (batch, positions) int64 from 1; 0 elsewhere.

    An exported graph has shapes that do not depend on the words. There every position has a row,
    but rows of missing positions are nobody's neighbour.

    >>> number_rows(torch.tensor([[True, False], [True, True]])).tolist()
    [[1, 0], [2, 3]]
    """
    if torch.onnx.is_in_onnx_export():
        rows = torch.arange(1, present.numel() + 1, device=present.device)
    else:
        rows = present.flatten().cumsum(0)
    return rows.view_as(present) * present


def with_first_position(present: Tensor) -> Tensor:
    """Give captions without any word one padding position, (batch, positions) bool.

    >>> with_first_position(torch.tensor([[False, False], [True, True]])).tolist()
    [[True, False], [True, True]]
    """
    first = present[:, :1] | ~present.any(dim=1, keepdim=True)
    return torch.cat([first, present[:, 1:]], dim=1)


def take(values: Tensor, present: Tensor, *, all_present: bool = False) -> Tensor:
    """Return the values, (batch, positions), of the positions that have a row.

    Args:
        all_present: every position exists. A GPU then need not be synchronised to count them.
    """
    if all_present or torch.onnx.is_in_onnx_export():
        return values.flatten()
    return values[present]


def share_rows(keys: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Give positions with equal keys the same row.

    Returns:
        The distinct keys, (rows,), and the row of each position, (batch, positions).
    """
    distinct, index = torch.unique(keys[present], return_inverse=True)
    return distinct, torch.zeros_like(keys).masked_scatter(present, index + 1)


def convolution_rows(
    rows: Tensor, stride: int, *, share: bool, all_present: bool
) -> tuple[Tensor, Neighbours]:
    """Return the rows after a convolution of width two, and the rows that it reads.

    With one zero on the left, position i of the output reads i - 1 and i at stride 1, and 2i - 1
    and 2i at stride 2.

    Args:
        rows: (batch, positions) int64, the row of each position, from 1; 0 is a missing row.
        share: positions that read the same rows get the same row. What the placements of a caption
            have in common, and captions with each other, is then computed once.
        all_present: every position exists.
    """
    padded = F.pad(rows, (1, 0))
    current = padded[:, 1::stride]
    previous = padded[:, 0::stride][:, : current.shape[1]]
    present = (previous > 0) | (current > 0) if stride > 1 else current > 0
    if share:
        base = int(rows.max()) + 1
        pairs, rows = share_rows(previous * base + current, present)
        return rows, Neighbours(pairs // base, pairs % base)
    read_previous = take(previous, present, all_present=all_present)
    if stride == 1:
        return rows, Neighbours(read_previous, None)
    read_current = take(current, present, all_present=all_present)
    return number_rows(present), Neighbours(read_previous, read_current)


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Take rows of x, (rows, channels), by number; row 0 is zeros.

    ``F.embedding`` has a faster gradient than indexing.

    >>> gather_rows(torch.eye(2), torch.tensor([2, 0])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    return F.embedding(rows, F.pad(x, (0, 0, 1, 0)))


def max_pool(x: Tensor, rows: Tensor) -> Tensor:
    """Return the maximum over the rows of each caption, (batch, channels)."""
    rows = rows.where(rows > 0, rows.amax(dim=1, keepdim=True))  # repeats change no maximum
    return F.embedding(rows - 1, x).amax(dim=1)


def mean_pool(x: Tensor, rows: Tensor) -> Tensor:
    """Return the mean over the rows of each caption, (batch, channels)."""
    present = rows > 0
    lengths = present.sum(dim=1)
    if torch.onnx.is_in_onnx_export():
        return gather_rows(x, rows).sum(dim=1) / lengths[:, None]
    owners = torch.repeat_interleave(lengths)
    total = x.new_zeros(len(rows), x.shape[1]).index_add(0, owners, x[rows[present] - 1])
    return total / lengths[:, None]
