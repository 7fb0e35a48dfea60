"""How this process's memory goes back to the kernel, for a process that builds many images."""

from __future__ import annotations

import ctypes

#: M_MMAP_THRESHOLD of malloc.h, and bytes from which on a block of memory is a mapping of its own.
_MMAP_THRESHOLD, LARGE = -3, 1 << 20


def return_large_blocks() -> None:
    """Let each block of LARGE bytes or more go back to the kernel when it is freed; it may be called again.

    By default glibc (mallopt(3)) does so only until such a block is freed for the first time: from then on it takes
    blocks up to that size, at most 32 MiB, from the heaps of its threads, and each of these keeps up to twice that
    size. A build reads kernels of 12 MiB and disks in pieces of 2 MiB, in threads: the process grew with each build,
    until every heap had kept its share. A C library without mallopt is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGE)
