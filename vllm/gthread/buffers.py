"""Memory for tensors on their way into the model. What nobody holds any more is used again: fresh pages cost more than the copy."""

from __future__ import annotations

import ctypes
import weakref

from . import memory

# Below it the C library's own memory is as good.
MAPPED_BYTES_MIN = 1024 * 1024
# A loader fills one tensor while its reader still has the one before.
FREE_MAX = 3
# A tensor takes a buffer of this many times its length at most: its reader may keep it.
WASTE_MAX = 2


class Buffers:
    def __init__(self) -> None:
        self._free: list[memory.Mapping] = []
        self._closed = False

    def take(self, length: int) -> memoryview:
        """Its bytes are anything. The caller's alone as long as it, or a tensor made of it, lives."""
        if length < MAPPED_BYTES_MIN:
            return memoryview(bytearray(length))
        # A virtual machine may have to ask its host for large pages (measured: 2 s for a GB, against 0.5 of small ones).
        mapping = self._fitting(length) or memory.map_anonymous(length, large_pages=False)
        array = (ctypes.c_char * length).from_address(mapping.address)
        # Not at the interpreter's end: tensors may live in it until then.
        weakref.finalize(array, self._give_back, mapping).atexit = False  # type: ignore[misc]  # it has, typeshed has not
        return memoryview(array).cast("B")

    def _fitting(self, length: int) -> memory.Mapping | None:
        fitting = [each for each in self._free if length <= each.bytes <= WASTE_MAX * length]
        if not fitting:
            return None
        best = min(fitting, key=lambda each: each.bytes)
        self._free.remove(best)
        return best

    def _give_back(self, mapping: memory.Mapping) -> None:
        self._free.append(mapping)
        while len(self._free) > (0 if self._closed else FREE_MAX):
            self._free.pop(0).close()

    def close(self) -> None:
        """What is still held goes with its last holder."""
        self._closed = True
        while self._free:
            self._free.pop().close()
