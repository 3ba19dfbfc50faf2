"""CUDA: what a sleep frees and a wake brings back, through vLLM's own allocator (vllm/device_allocator/cumem.py).

A sleep unmaps every segment of the allocator and copies no weight; a wake maps them at the same addresses and fills the parameters
from the image. The weights' pool holds more than parameters: buffers, and tensors that only an attribute or a closure knows
(workspaces, packed scales, LoRA slots). They may change, so each sleep copies them to host memory: every live byte of the
pool that no parameter of the image covers.
"""

from __future__ import annotations

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


class CudaRuntime:
    def __init__(self) -> None:
        from vllm.distributed.device_communicators.cuda_wrapper import CudaRTLibrary

        self._library = CudaRTLibrary()

    def copy(self, target: int, source: int, length: int) -> None:
        import ctypes

        self._library.cudaMemcpy(ctypes.c_void_p(target), ctypes.c_void_p(source), length)

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize()

    def register(self, address: int, length: int) -> bool:
        import torch

        return int(torch.cuda.cudart().cudaHostRegister(address, length, CUDA_HOST_REGISTER_READ_ONLY)) == 0


def subtract(ranges: Ranges, covered: Ranges) -> Ranges:
    """What of `ranges` is not in `covered`."""
    left: Ranges = []
    holes = sorted(covered)
    for start, length in sorted(ranges):
        at, end = start, start + length
        for hole, hole_length in holes:
            if hole + hole_length <= at or hole >= end:
                continue
            if hole > at:
                left.append((at, hole - at))
            at = max(at, hole + hole_length)
        if at < end:
            left.append((at, end - at))
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
        self._filled: list[tuple[int, StoragePlace]] = [
            (storage.address, place)
            for storage, place in zip(storages, image.layout.storages, strict=True)
            if place.frees and not subtract([(storage.address, storage.bytes)], pool)
        ]
        self._rest: list[tuple[int, memory.Mapping, int]] = []
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
        for address, length in subtract(live_ranges(self._allocator), covered):
            kept = memory.map_anonymous(length)
            self._rest.append((address, kept, length))
            self._runtime.copy(kept.address, address, length)
            self.rest_bytes += length

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
            for address, kept, length in self._rest:
                self._runtime.copy(address, kept.address, length)
        self._runtime.synchronize()

    def _forget_rest(self) -> None:
        """Only at the next sleep: a wake that failed half-way is tried again with it."""
        for _, kept, _ in self._rest:
            kept.close()
        self._rest, self.rest_bytes = [], 0
