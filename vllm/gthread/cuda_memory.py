"""CUDA: what a sleep frees and a wake brings back, through vLLM's own allocator (vllm/device_allocator/cumem.py).

A sleep unmaps every segment of the allocator and copies no weight; a wake maps them at the same addresses and fills the parameters
from the image. The weights' pool holds more than parameters: buffers, and tensors that only an attribute or a closure knows
(workspaces, packed scales, LoRA slots). They may change, so each sleep copies them to host memory: every live byte of the
pool that no parameter of the image covers.
"""

from __future__ import annotations

import bisect
import ctypes
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from . import memory
from .image_file import CHUNK_BYTES, Image
from .image_layout import StoragePlace

# As Worker.sleep of level 2: state that must live through a sleep and is in no image.
OFFLOADED_TAGS = ("runtime", "cudagraph")
CUDA_HOST_REGISTER_READ_ONLY = 0x08  # driver_types.h


class Storage(Protocol):
    """As much of tensors.Storage as is used: this module needs no torch."""

    address: int
    bytes: int


Ranges = list[tuple[int, int]]
"""Addresses and bytes, ascending, apart."""


class Runtime(Protocol):
    def copy(self, target: int, source: int, length: int) -> None:
        """Either side may be the device's; done when it returns."""

    def synchronize(self) -> None: ...

    def register(self, address: int, length: int) -> bool:
        """Pins host memory for reading. @returns whether it could"""


class Allocator(Protocol):
    """As much of CuMemAllocator as is used."""

    pointer_to_data: Mapping[int, Any]
    allocator_and_pools: Mapping[str, list[Any]]

    def sleep(self, offload_tags: tuple[str, ...]) -> None: ...

    def wake_up(self, tags: list[str] | None) -> None: ...

    def discard(self, tags: tuple[str, ...]) -> None: ...


class Library(Protocol):
    """As much of vLLM's CudaRTLibrary as is used."""

    def cudaMemcpy(self, dst: ctypes.c_void_p, src: ctypes.c_void_p, count: int) -> None:  # noqa: N802
        """@raises RuntimeError"""

    def cudaHostRegister(self, ptr: int, size: int, flags: int) -> int:  # noqa: N802
        """@returns CUDA's error, 0 for none"""

    def cudaGetLastError(self) -> int: ...  # noqa: N802


class CudaRuntime:
    def __init__(self, library: Library | None = None) -> None:
        if library is None:
            from vllm.distributed.device_communicators.cuda_wrapper import CudaRTLibrary

            library = CudaRTLibrary()
        self._library = library

    def copy(self, target: int, source: int, length: int) -> None:
        self._library.cudaMemcpy(ctypes.c_void_p(target), ctypes.c_void_p(source), length)

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize()

    def register(self, address: int, length: int) -> bool:
        if self._library.cudaHostRegister(address, length, CUDA_HOST_REGISTER_READ_ONLY) == 0:
            return True
        # CUDA keeps it for whoever asks next: torch does after its next kernel, and would take it for the kernel's.
        self._library.cudaGetLastError()
        return False


def subtract(ranges: Ranges, covered: Ranges) -> Ranges:
    """What of `ranges` is not in `covered`: one sweep over the ends of both, in their order."""
    left: Ranges = []
    ends: list[tuple[int, int, int]] = []
    for start, length in ranges:
        ends += [(start, 1, 0), (start + length, -1, 0)]
    for start, length in covered:
        ends += [(start, 0, 1), (start + length, 0, -1)]
    held = gone = begun = 0
    for at, holds, covers in sorted(ends):
        if held and not gone and at > begun:
            if left and left[-1][0] + left[-1][1] == begun:
                left[-1] = (left[-1][0], at - left[-1][0])
            else:
                left.append((begun, at - begun))
        held, gone, begun = held + holds, gone + covers, at
    return left


def live_ranges(allocator: Allocator) -> Ranges:
    """Bytes of the weights' pool that somebody holds. A segment whose blocks cannot be told is live as a whole."""
    blocks: dict[int, Ranges] = {}
    for pool, _ in allocator.allocator_and_pools.get("weights", []):
        for segment in pool.snapshot():
            at, held = segment["address"], []
            for block in segment.get("blocks", [{"state": "unknown", "size": segment["total_size"]}]):
                at = block.get("address", at)
                if block["state"] != "inactive":
                    held.append((at, block.get("requested_size") or block["size"]))
                at += block["size"]
            blocks[segment["address"]] = held
    found: Ranges = []
    for address, data in allocator.pointer_to_data.items():
        if data.tag == "weights":
            found += blocks.get(address, [(address, data.handle[1])])
    return sorted(found)


def read_storage(runtime: Runtime, storages: Sequence[Storage]) -> Callable[[int], Iterator[memoryview]]:
    """For image_file.write_image: from the device by way of one buffer."""
    buffer = memory.map_anonymous(CHUNK_BYTES)

    def read(number: int) -> Iterator[memoryview]:
        storage = storages[number]
        for at in range(0, storage.bytes, CHUNK_BYTES):
            length = min(CHUNK_BYTES, storage.bytes - at)
            runtime.copy(buffer.address, storage.address + at, length)
            yield buffer.view(0, length)

    return read


class CudaMemory:
    map_weights = False

    def __init__(
        self,
        image: Image,
        storages: Sequence[Storage],
        allocator: Allocator,
        runtime: Runtime,
        log: logging.Logger,
    ) -> None:
        """@param storages in the order of the image's layout"""
        self._image, self._allocator, self._runtime, self._log = image, allocator, runtime, log
        pool = [(address, data.handle[1]) for address, data in allocator.pointer_to_data.items() if data.tag == "weights"]
        # What is not in the pool (offloaded to the host, say) is neither unmapped nor restored.
        outside = subtract([(storage.address, storage.bytes) for storage in storages], pool)
        self._filled: list[tuple[int, StoragePlace]] = [
            (storage.address, place)
            for storage, place in zip(storages, image.layout.storages, strict=True)
            if place.frees and not _meets(outside, storage)
        ]
        self._rest: Ranges = []
        self._kept: memory.Mapping | None = None
        self.rest_bytes = 0
        self.registered = runtime.register(image.mapping.address, image.mapping.bytes)
        if not self.registered:
            log.warning("gthread: the image cannot be pinned here; a wake copies through the driver's own buffers")

    @property
    def freed_bytes(self) -> int:
        return sum(place.bytes for _, place in self._filled)

    # -- sleep_cycle.Memory

    def prepare(self, tags: frozenset[str]) -> None:
        """Copies what no image has. Nothing is freed yet."""
        self._runtime.synchronize()
        if "weights" not in tags:
            return
        self._forget_rest()
        covered = [(address, place.bytes) for address, place in self._filled]
        self._rest = subtract(live_ranges(self._allocator), covered)
        self.rest_bytes = sum(length for _, length in self._rest)
        if self._rest:
            # One mapping for all: each takes a large page at least.
            self._kept = memory.map_anonymous(self.rest_bytes)
        for address, copy, length in self._copies():
            self._runtime.copy(copy, address, length)

    def drop(self, tags: frozenset[str]) -> None:
        if "weights" in tags:
            self._allocator.sleep(offload_tags=OFFLOADED_TAGS)
        else:
            self._allocator.discard(tuple(tags))

    def bring_back(self, tags: frozenset[str]) -> None:
        self._allocator.wake_up(sorted(tags))
        if "weights" in tags:
            for address, place in self._filled:
                self._runtime.copy(address, self._image.address(place), place.bytes)
            for address, copy, length in self._copies():
                self._runtime.copy(address, copy, length)
        self._runtime.synchronize()

    def _copies(self) -> Iterator[tuple[int, int, int]]:
        """Of the rest: address, its copy's address, bytes."""
        at = 0 if self._kept is None else self._kept.address
        for address, length in self._rest:
            yield address, at, length
            at += length

    def _forget_rest(self) -> None:
        """Only at the next sleep: a wake that failed half-way is tried again with it."""
        if self._kept is not None:
            self._kept.close()
        self._rest, self._kept, self.rest_bytes = [], None, 0


def _meets(ranges: Ranges, storage: Storage) -> bool:
    """Whether any of these, ascending and apart, has a byte of it."""
    before = bisect.bisect_left(ranges, (storage.address + storage.bytes, 0)) - 1
    return before >= 0 and ranges[before][0] + ranges[before][1] > storage.address
