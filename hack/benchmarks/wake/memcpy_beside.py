"""For hack/bench wake: a plain copy of the same bytes in the same process, by --worker-extension-cls memcpy_beside.MemcpyBeside."""

from __future__ import annotations

import time
from typing import Any

from gthread import memory


class MemcpyBeside:
    def memcpy_seconds(self: Any) -> dict[str, float]:
        """One memcpy of what a wake copies, from the same mapping with all its pages, into memory that has just been given back
        to the kernel, in pages of the same size."""
        stats = self.gthread_stats()
        length = stats["runBytes"]
        target = getattr(self, "_memcpy_target", None)
        if target is None:
            target = self._memcpy_target = memory.map_anonymous(length)
        memory.free_pages(target.address, length)
        # As a wake waits for the same, begun at the sleep: on busy cores the copy would meet faults that no wake meets.
        memory.try_advise(stats["runAddress"], length, memory.MADV_POPULATE_READ)
        since, cpu_since = time.perf_counter(), time.thread_time()
        memory.copy(target.address, stats["runAddress"], length)
        seconds, cpu_seconds = time.perf_counter() - since, time.thread_time() - cpu_since
        memory.free_pages(target.address, length)
        return {"seconds": seconds, "cpuSeconds": cpu_seconds, "bytes": length}
