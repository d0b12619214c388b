"""Vectors with 8 bits a value, and with 8 bits more for those who wait."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dualpath.types import Vectors

RESIDUAL_STEPS = 254  # a residual is at most half a step of the first 8 bits, in 127 steps


class QuantisedVectors(NamedTuple):
    """``vectors ≈ scales * (high + low / 254)``.

    Attributes:
        scales: a factor for each row, (rows,) float32.
        high: the first 8 bits, (rows, dim) int8.
        low: the second 8 bits, (rows, dim) int8.
    """

    scales: Vectors
    high: npt.NDArray[np.int8]
    low: npt.NDArray[np.int8]

    def rough(self) -> Vectors:
        """Return the vectors as the first 8 bits give them, (rows, dim)."""
        rough: Vectors = self.scales[:, None] * self.high.astype(np.float32)
        return rough


def quantise(vectors: Vectors) -> QuantisedVectors:
    """Quantise the rows of (rows, dim) with one scale for each row.

    >>> rows = quantise(np.array([[0.6, -0.8]], np.float32))
    >>> rows.high.tolist()
    [[95, -127]]
    >>> exact = rows.scales[:, None] * (rows.high + rows.low / RESIDUAL_STEPS)
    >>> bool(np.abs(exact - [[0.6, -0.8]]).max() < 2e-5)
    True
    """
    largest = np.abs(vectors).max(axis=1, initial=1e-12)
    scales = (largest / 127).astype(np.float32)
    steps = vectors / scales[:, None]
    high = np.round(steps)
    low = np.round((steps - high) * RESIDUAL_STEPS)
    return QuantisedVectors(
        scales, high.clip(-127, 127).astype(np.int8), low.clip(-127, 127).astype(np.int8)
    )
