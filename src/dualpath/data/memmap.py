"""Memory-mapped arrays that are sent to other processes as a file path."""

import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class FileArray(np.memmap[Any, Any]):
    """A read-only memory map of a whole file. It is pickled as the file's path, without the data.

    A part of such an array is pickled with its data.
    """

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if isinstance(self.base, mmap.mmap) and self.filename is not None:
            return open_memmap, (Path(self.filename), self.dtype, self.shape)
        return np.asarray(self).__reduce__()  # type: ignore[return-value]


def open_memmap(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Map a file of numbers in row-major order. A ``shape`` with a 0 needs no file."""
    if 0 in shape:
        return np.empty(shape, dtype)
    return FileArray(path, dtype, "r", 0, shape)
