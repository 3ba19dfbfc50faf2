"""The sleep backend `gthread`: no copy of weights at sleep, an image at wake (docs/weights.md)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm.device_allocator.sleep_mode_backend import SleepModeBackend
from vllm.logger import init_logger

from . import cpu_memory, cuda_memory, facts, image_file, image_key, memory, plain_gemm, tensors
from .image_layout import Layout
from .places import own_folder, read_places
from .sleep_cycle import TAGS, Memory, SleepCycle, SuspendFailed

if TYPE_CHECKING:
    from torch import nn
    from vllm.config import VllmConfig

logger = init_logger("vllm.gthread")


class Started:
    """A moment, by the clock and by the CPU time that this thread has had."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.thread_time()


class GThreadBackend(SleepModeBackend):
    """Made by vLLM without arguments; the worker hands it the model (`attach`) once that is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self._attached: tuple[nn.Module, nn.Module | None, VllmConfig, int] | None = None
        self._memory: cpu_memory.CpuMemory | cuda_memory.CudaMemory | None = None
        self._cycle: SleepCycle | None = None
        self._image: image_file.Image | None = None
        self._last: dict[str, object] = {}

    def attach(self, model: nn.Module, draft: nn.Module | None, config: VllmConfig, rank: int) -> None:
        """An image that cannot be written now (a full pool) is tried again at the first sleep; the engine serves meanwhile."""
        self._attached = (model, draft, config, rank)
        try:
            self._make_ready()
        except (OSError, ValueError) as error:
            logger.error("gthread: no image yet, the first sleep tries again: %s", error)

    def _make_ready(self) -> SleepCycle:
        """@raises OSError, image_layout.ImageError"""
        if self._cycle is not None:
            return self._cycle
        if self._attached is None:
            raise SuspendFailed("the model is not loaded")
        model, draft, config, rank = self._attached
        device = config.device_config.device_type
        started = time.perf_counter()
        places = read_places(os.environ)
        layout, storages = tensors.layout_of(tensors.collect(model, draft, device))
        given = facts.gather(config, rank, device, plain_gemm.PACKING if device == "cpu" else "stock")
        runtime = None if device == "cpu" else cuda_memory.CudaRuntime()
        image = self._image or _find_or_write(places.shared_images, places.own_images, layout, given, storages, runtime)
        self._image = image
        kept: Memory
        if runtime is None:
            context = config.compilation_config.static_forward_context
            self._memory = kept = cpu_memory.CpuMemory(image, storages, places.map_weights, lambda: cpu_memory.kv_storages(context))
        else:
            from vllm.device_allocator import get_mem_allocator_instance

            allocator: Any = get_mem_allocator_instance()
            self._memory = kept = cuda_memory.CudaMemory(image, storages, allocator, runtime, logger)
        self._cycle = SleepCycle(kept)
        logger.info(
            "gthread: %d storages, %d bytes of weights, image %s, %s, ready in %.3f s",
            len(layout.storages),
            self._memory.freed_bytes,
            image.path,
            "mapped" if self._memory.map_weights else "copied at a wake",
            time.perf_counter() - started,
        )
        return self._cycle

    def cache_made(self) -> None:
        """The KV cache is there, and nothing in it."""
        if isinstance(self._memory, cpu_memory.CpuMemory):
            self._memory.free_cache()

    # -- vLLM's words

    def suspend(self, level: int = 1) -> None:
        """Levels 1 and 2 alike: weights come back by themselves at a wake."""
        self._free(TAGS)

    def discard(self, tags: tuple[str, ...]) -> None:
        self._free(frozenset(tags))

    def _free(self, tags: frozenset[str]) -> None:
        try:
            cycle = self._make_ready()
        except (OSError, ValueError) as error:
            raise SuspendFailed(f"sleep refused, nothing was freed: no image of the weights: {error}") from error
        started = Started()
        freed = cycle.suspend(tags)
        self._state = "SUSPENDED"
        self._note("sleep", freed, started)

    def resume(self, tags: list[str] | None = None) -> None:
        if self._cycle is None:
            return  # no sleep came to its end: all is in memory
        self._state = "RESUMING"
        started = Started()
        brought = self._cycle.resume(tags)
        self._state = "SUSPENDED" if self._cycle.asleep else "RUNNING"
        self._note("wake", brought, started)

    def require_awake(self, what: str) -> None:
        """@raises sleep_cycle.Asleep"""
        if self._cycle is not None:
            self._cycle.require_awake(what)

    def require_weights(self, what: str) -> None:
        """The KV cache may still be away. @raises sleep_cycle.Asleep"""
        if self._cycle is not None:
            self._cycle.require_awake(what, ("weights",))

    def _note(self, what: str, tags: frozenset[str], started: Started) -> None:
        seconds, cpu_seconds = time.perf_counter() - started.wall, time.thread_time() - started.cpu
        weights = self._memory.freed_bytes if self._memory is not None and "weights" in tags else 0
        self._last[what] = {"seconds": seconds, "cpuSeconds": cpu_seconds, "tags": sorted(tags), "weightsBytes": weights}
        logger.info("gthread: %s of %s in %.1f ms, %d bytes of weights", what, sorted(tags), seconds * 1e3, weights)

    def stats(self) -> dict[str, object]:
        """For people and benchmarks, asleep as well: plain values."""
        cycle, kept, image = self._cycle, self._memory, self._image
        return {
            "pid": os.getpid(),
            "state": self._state,
            "asleep": [] if cycle is None else sorted(cycle.asleep),
            "broken": None if cycle is None else cycle.broken,
            "weightsBytes": None if kept is None else kept.freed_bytes,
            "mapped": None if kept is None else kept.map_weights,
            "restBytes": getattr(kept, "rest_bytes", 0),
            "inPlaceStorages": getattr(kept, "in_place_storages", 0),
            "image": None if image is None else str(image.path),
            "runAddress": None if image is None else image.run_address,
            "runBytes": None if image is None else image.layout.run_bytes,
            "resident": memory.resident_bytes(),
            "last": self._last,
        }

    @classmethod
    def preserves_communicators(cls) -> bool:
        return True


def _find_or_write(
    shared: Any, own: Any, layout: Layout, given: dict[str, object], storages: list[tensors.Storage], runtime: Any
) -> image_file.Image:
    name = image_key.image_name(image_key.key_of(given), layout.fingerprint_text())

    def write(folder: Path) -> Path:
        started = time.perf_counter()
        read = cpu_memory.read_storage(storages) if runtime is None else cuda_memory.read_storage(runtime, storages)
        path = image_file.write_image(folder, name, layout, given, read)
        seconds = time.perf_counter() - started
        logger.info("gthread: image %s, %d bytes, written in %.3f s", path, layout.data_bytes, seconds)
        return path

    return image_file.open_or_write(shared, [own, own_folder()], name, write, lambda text: logger.error("gthread: %s", text))
