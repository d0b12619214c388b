"""Arrays in files, read as they are needed, that are handed to other processes by name."""

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class MappedArray(np.memmap[Any, Any]):
    """A read-only memory map of a whole file; pickled, it is the file's name and not its bytes."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if isinstance(self.base, mmap.mmap) and self.filename is not None:
            return open_mapped, (Path(self.filename), self.dtype, self.shape)
        return np.asarray(self).__reduce__()  # type: ignore[return-value]


def open_mapped(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Map a file of numbers in row-major order; an empty one is an empty array."""
    if 0 in shape:
        return np.empty(shape, dtype)
    return MappedArray(path, dtype, "r", 0, shape)
