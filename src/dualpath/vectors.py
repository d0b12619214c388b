"""Names that many modules share, in a module that imports nothing heavy."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Advance = Callable[[int], None]


def unwatched(_: int) -> None:
    """Progress that nobody watches."""
