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


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next tensors, where the C library is glibc.

    Does nothing where the user has chosen thresholds by environment variables.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # absent from other C libraries
        mallopt(_M_TRIM_THRESHOLD, _KEPT_AT_MOST)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
