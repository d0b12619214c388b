"""The C library's memory allocator, told to keep what a network frees.

A forward pass asks for tensors of megabytes and frees them, batch after batch. glibc gives such
memory back to the kernel at once, and gets it back as pages that fault one by one; that was half
of the time of embedding a picture (docs/performance.md).
"""

import ctypes
import os
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_AT_MOST = 2**31 - 1  # bytes that stay with the process when they are free
_MAPPED_FROM = 2**30  # bytes in one piece that are still given back
_MAPPED_FROM_IN_TRAINING = 2**25


def keep_freed_memory(*, training: bool = False) -> None:
    """Let this process keep freed memory for its next tensors, where the C library is glibc.

    Does nothing where the user has chosen thresholds by environment variables.

    Args:
        training: what a backbone keeps for its gradients is most of the memory there is, and freed
            pieces of other sizes beside it would be half as much again: give back the large ones.
    """
    if not any(name.startswith("MALLOC_") for name in os.environ):
        _call("mallopt", _M_TRIM_THRESHOLD, _KEPT_AT_MOST)
        _call("mallopt", _M_MMAP_THRESHOLD, _MAPPED_FROM_IN_TRAINING if training else _MAPPED_FROM)


def give_back_freed_memory() -> None:
    """Give back what is free, so that a process forked from this one does not hold on to it."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    """Call a function of glibc, where that is the C library."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:
        function(*arguments)
