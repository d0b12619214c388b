"""Types that many modules share. This module imports nothing heavy."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

DEFAULT_TOP = 10  # results of a search: in Python, on the command line and over HTTP

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]  # (rows, dim); unit length where a docstring says so
    Mask = npt.NDArray[np.bool_]  # (rows,)
    IntArray = npt.NDArray[np.int64]
    Pixels = npt.NDArray[np.uint8]  # (..., 3, height, width) RGB
else:  # for type checkers alone: the command line must start without numpy
    Vectors = Mask = IntArray = Pixels = Any

Progress = Callable[[int], None]  # called with the number of items finished since the last call


def no_progress(_: int) -> None:
    """Ignore progress."""


def expect(progress: Progress, total: int) -> None:
    """Announce how many more items a progress function will count, if it shows the time left.

    Such a function has a method ``expect``. Others are only called with finished items.
    """
    announce = getattr(progress, "expect", None)
    if announce is not None:
        announce(total)
