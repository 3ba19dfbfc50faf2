"""The hash that a form's manifest has for each chunk. Neither Python nor vLLM brings it along; its C library is wherever apt is."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable

LIBRARY = "libxxhash.so.0"

Hash = Callable[[memoryview], int]
"""Of writable memory."""


def find() -> Hash | None:
    """None: this system has it neither as a library nor as the package xxhash."""
    try:
        function = ctypes.CDLL(LIBRARY).XXH64
    except (OSError, AttributeError):
        return _package()
    function.restype = ctypes.c_uint64
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64]

    def by_library(data: memoryview) -> int:
        return int(function(ctypes.addressof(ctypes.c_char.from_buffer(data)) if data else None, len(data), 0))

    return by_library


def _package() -> Hash | None:
    try:
        digest = importlib.import_module("xxhash").xxh64_intdigest
    except (ImportError, AttributeError):
        return None
    return lambda data: int(digest(data))
