"""Settings of glibc's memory allocator that make neural networks on a CPU faster.

A forward pass allocates and frees tensors of megabytes, batch after batch. By default glibc returns
such memory to the kernel at once and gets it back page by page, with a page fault each. That was
half of the time of embedding an image (docs/results/performance.md).
"""

import ctypes
import os
import sys

# Constants of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM_THRESHOLD = 2**31 - 1  # bytes of free memory that the process keeps
_MMAP_THRESHOLD = 2**30  # allocations from this size on are returned when they are freed
_MMAP_THRESHOLD_TRAINING = 2**25


def tune_malloc(*, training: bool = False) -> None:
    """Keep freed memory for the next tensors, if the C library is glibc.

    Does nothing if an environment variable such as ``MALLOC_TRIM_THRESHOLD_`` is set.

    Args:
        training: return large allocations. The activations that a backbone keeps for its gradients
            fill most of the memory, and free blocks of other sizes would add half as much.
    """
    if not any(name.startswith("MALLOC_") for name in os.environ):
        _call("mallopt", _M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        threshold = _MMAP_THRESHOLD_TRAINING if training else _MMAP_THRESHOLD
        _call("mallopt", _M_MMAP_THRESHOLD, threshold)


def trim_heap() -> None:
    """Return free memory to the kernel, so that a forked process does not inherit it."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    """Call a function of glibc, if that is the C library."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
