"""CPU: what a sleep frees and a wake brings back.

Copy: parameters lie in one private run of large pages, laid out as the image is. A sleep gives its pages back, a wake is one copy
out of the image. Map: parameters are the shared image itself; a sleep only unmaps its pages from this process.
A parameter's storage that somebody else looks into as well (a view kept by a layer) is not moved: it is freed and
filled where it is. Buffers and all other tensors stay in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from . import memory
from .image_file import Image
from .image_layout import ALIGNMENT_BYTES, StoragePlace
from .tensors import Storage, bytes_tensor, typed_view


@dataclass(frozen=True)
class InPlace:
    address: int
    place: StoragePlace


def read_storage(storages: list[Storage]) -> Callable[[int], Iterator[memoryview]]:
    """For image_file.write_image: CPU memory is read where it lies."""

    def read(number: int) -> Iterator[memoryview]:
        yield memory.view_of(storages[number].address, storages[number].bytes)

    return read


def stretches(places: list[StoragePlace]) -> list[tuple[int, int]]:
    """Begins and ends of what is copied at once: neighbours make one, with the few bytes between them."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and place.offset - found[-1][1] < ALIGNMENT_BYTES:
            found[-1] = (found[-1][0], place.offset + place.bytes)
        else:
            found.append((place.offset, place.offset + place.bytes))
    return found


class CpuMemory:
    """@param kv_storages addresses and bytes of the KV cache, asked for at each sleep: it is made after the model"""

    def __init__(
        self,
        image: Image,
        storages: list[Storage],
        map_weights: bool,
        kv_storages: Callable[[], list[tuple[int, int]]],
    ) -> None:
        """@param storages in the order of the image's layout; their parameters are moved"""
        self._image, self._kv_storages = image, kv_storages
        self._run: memory.Mapping | None = None
        self._in_place: list[InPlace] = []
        self._faulting: threading.Thread | None = None
        self.map_weights = map_weights
        moved = [s for s in zip(storages, image.layout.storages, strict=True) if self._can_move(*s)]
        self._stretches = stretches([place for _, place in moved])
        if not map_weights:
            self._run = memory.map_anonymous(image.layout.run_bytes)
            image.prefault()
            self._fill_run()
        start = image.run_address if self._run is None else self._run.address
        for storage, place in moved:
            raw = bytes_tensor(start + place.offset, place.bytes)
            for tensor, at in zip(storage.tensors, place.tensors, strict=True):
                tensor.data = typed_view(raw, at)
        del moved
        # The old storages are free now; without this the allocator would keep their pages.
        memory.release_free_memory()

    def _can_move(self, storage: Storage, place: StoragePlace) -> bool:
        if not place.frees:
            return False
        if storage.use_count() <= len(storage.objects):
            return True
        self._in_place.append(InPlace(storage.address, place))
        return False

    @property
    def freed_bytes(self) -> int:
        """Of weights, at each sleep."""
        return sum(end - start for start, end in self._stretches) + sum(entry.place.bytes for entry in self._in_place)

    @property
    def in_place_storages(self) -> int:
        return len(self._in_place)

    def _fill_run(self) -> None:
        assert self._run is not None
        for start, end in self._stretches:
            memory.copy(self._run.address + start, self._image.run_address + start, end - start)

    def free_cache(self) -> None:
        """vLLM fills it with zeroes in small pages. It reads as zeroes all the same, and what is written there comes, and goes, in
        large ones."""
        for address, length in self._kv_storages():
            memory.free_pages(address, length)
            memory.try_advise(address, length, memory.MADV_HUGEPAGE)

    # -- sleep_cycle.Memory

    def prepare(self, tags: frozenset[str]) -> None:
        """The image is mapped and was checked: nothing is left that could fail."""
        self._wait_for_faulting()

    def drop(self, tags: frozenset[str]) -> None:
        if "kv_cache" in tags:
            self.free_cache()
        if "weights" not in tags:
            return
        if self._run is None:
            self._image.unmap_pages()
        else:
            memory.free_pages(self._run.address, self._run.bytes)
            for entry in self._in_place:
                memory.free_pages(entry.address, entry.place.bytes)
            # A wake must find every page of the image mapped; the sleep does not wait for it.
            self._faulting = threading.Thread(target=self._image.prefault, name="gthread-prefault", daemon=True)
            self._faulting.start()

    def bring_back(self, tags: frozenset[str]) -> None:
        """The KV cache comes by itself, as zeroes, where it is written; so do mapped weights where they are read."""
        if "weights" not in tags or self._run is None:
            return
        self._wait_for_faulting()
        self._fill_run()
        for entry in self._in_place:
            memory.copy(entry.address, self._image.address(entry.place), entry.place.bytes)

    def _wait_for_faulting(self) -> None:
        if self._faulting is not None:
            self._faulting.join()
            self._faulting = None


def kv_storages(static_forward_context: dict[str, object]) -> list[tuple[int, int]]:
    """Addresses and bytes of the storages that hold the layers' KV caches (vLLM's compilation_config has the layers)."""
    found: dict[int, int] = {}
    for layer in static_forward_context.values():
        cache = getattr(layer, "kv_cache", None)
        for tensor in cache if isinstance(cache, (list, tuple)) else [cache]:
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                storage = tensor.untyped_storage()
                if storage.nbytes():
                    found[storage.data_ptr()] = storage.nbytes()
    return list(found.items())
