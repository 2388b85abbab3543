"""Memory that one large picture took goes back to the system with it, not into the allocator's stock."""

import ctypes

_M_ARENA_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -8, -3, -1  # malloc.h
#: Blocks from here on are mapped and unmapped one by one; ordinary pictures stay below and reuse the heap.
_MAPPED_BYTES = 4 * 2**20
_TRIM_BYTES = 8 * 2**20


def keep_memory_small() -> None:
    """Fix glibc's thresholds, which would otherwise grow with the largest block ever freed; others have none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
    mallopt(_M_ARENA_MAX, 2)
