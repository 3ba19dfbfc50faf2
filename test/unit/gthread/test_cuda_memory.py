"""The CUDA path on a fake allocator: segments are host memory, unmapping loses their bytes, addresses stay."""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import pytest
from gthread import cuda_memory, memory
from gthread.cuda_memory import CudaMemory, CudaRuntime, live_ranges, subtract
from gthread.image_file import Image, open_image, write_image
from gthread.image_layout import TensorPlace, plan
from gthread.sleep_cycle import Asleep, Broken, SleepCycle, SuspendFailed

SEGMENT = 4 * 1024 * 1024
LOST = 0xEE


ALREADY_REGISTERED = 712  # cudaErrorHostMemoryAlreadyRegistered


class Library:
    """vLLM's CudaRTLibrary on host memory. An error stays pending until it is asked for, as the CUDA runtime's does."""

    def __init__(self, pins: bool) -> None:
        self.pins, self.copied, self.pending = pins, 0, 0
        self.fails_after: int | None = None

    def cudaMemcpy(self, dst: ctypes.c_void_p, src: ctypes.c_void_p, count: int) -> None:  # noqa: N802
        if self.fails_after is not None and self.copied >= self.fails_after:
            raise RuntimeError("cudaMemcpy failed")
        self.copied += count
        memory.copy(dst.value, src.value, count)

    def cudaHostRegister(self, ptr: int, size: int, flags: int) -> int:  # noqa: N802
        if not self.pins:
            self.pending = ALREADY_REGISTERED
        return self.pending

    def cudaGetLastError(self) -> int:  # noqa: N802
        pending, self.pending = self.pending, 0
        return pending


class Runtime(CudaRuntime):
    def __init__(self, pins: bool = True) -> None:
        self.library = Library(pins)
        super().__init__(self.library)

    def synchronize(self) -> None:
        """What torch asks after each of its kernels."""
        pending = self.library.cudaGetLastError()
        if pending:
            raise RuntimeError(f"CUDA error {pending}")


@dataclass
class Allocation:
    """vllm.device_allocator.AllocationData."""

    handle: tuple[int, int, int, int]
    tag: str
    cpu_backup_tensor: bytes | None = None
    is_asleep: bool = False


@dataclass
class Pool:
    segments: list[dict] = field(default_factory=list)

    def snapshot(self) -> list[dict]:
        return self.segments


class Allocator:
    """CuMemAllocator's words, its rules of what a sleep keeps and what a wake brings back."""

    def __init__(self) -> None:
        self.pointer_to_data: dict[int, Allocation] = {}
        self.pool = Pool()
        self.allocator_and_pools = {"weights": [(self.pool, None)]}
        self.fails: Callable[[str, str], bool] = lambda *_: False

    def segment(self, tag: str) -> int:
        address = memory.map_anonymous(SEGMENT).address
        self.pointer_to_data[address] = Allocation((0, SEGMENT, address, 1), tag)
        return address

    def _unmap(self, data: Allocation) -> None:
        if self.fails("unmap", data.tag):
            data.is_asleep = True  # as CuMemAllocator.sleep, which marks it before it knows
            raise RuntimeError("cuMemUnmap failed")
        memory.view_of(data.handle[2], SEGMENT)[:] = bytes([LOST]) * SEGMENT
        data.is_asleep = True

    def sleep(self, offload_tags: tuple[str, ...]) -> None:
        for data in self.pointer_to_data.values():
            if not data.is_asleep:
                if data.tag in offload_tags:
                    data.cpu_backup_tensor = bytes(memory.view_of(data.handle[2], SEGMENT))
                self._unmap(data)

    def discard(self, tags: tuple[str, ...]) -> None:
        for data in self.pointer_to_data.values():
            if data.tag in tags and not data.is_asleep:
                self._unmap(data)

    def wake_up(self, tags: list[str] | None) -> None:
        for data in self.pointer_to_data.values():
            if data.is_asleep and (tags is None or data.tag in tags or data.tag not in ("weights", "kv_cache")):
                if self.fails("map", data.tag):
                    raise RuntimeError("out of memory")
                data.is_asleep = False
                if data.cpu_backup_tensor is not None:
                    memory.view_of(data.handle[2], SEGMENT)[:] = data.cpu_backup_tensor
                    data.cpu_backup_tensor = None


@dataclass
class Storage:
    address: int
    bytes: int


@dataclass
class World:
    """Two weight segments: parameters in both, a buffer and a nameless workspace between them; a KV cache and a runtime segment."""

    allocator: Allocator
    runtime: Runtime
    cuda: CudaMemory
    cycle: SleepCycle
    live: dict[str, tuple[int, int]]

    def content(self) -> dict[str, bytes]:
        return {name: bytes(memory.view_of(*place)) for name, place in self.live.items()}


PARAMETERS = ("p1", "p2")


def make(folder: Path, runtime: Runtime) -> World:
    allocator = Allocator()
    first, second = allocator.segment("weights"), allocator.segment("weights")
    live = {
        "p1": (first, 1_000_000),
        "workspace": (first + 1_048_576, 70_000),
        "buffer": (first + 2_097_152, 512),
        "p2": (second, 3_000_000),
        "runtime": (allocator.segment("runtime"), 4096),
    }
    allocator.segment("kv_cache")
    for name, (address, length) in live.items():
        memory.view_of(address, length)[:] = name[:1].encode() + os.urandom(length - 1)

    def blocks(*names: str) -> list[dict]:
        found, at = [], None
        for name in names:
            address, length = live[name]
            if at is not None and address > at:
                found.append({"address": at, "size": address - at, "requested_size": 0, "state": "inactive"})
            size = memory.align_up(length, 512)
            found.append({"address": address, "size": size, "requested_size": length, "state": "active_allocated"})
            at = address + size
        return found

    allocator.pool.segments = [
        {"address": first, "total_size": SEGMENT, "blocks": blocks("p1", "workspace", "buffer")},
        {"address": second, "total_size": SEGMENT, "blocks": blocks("p2")},
    ]
    storages = [Storage(*live[name]) for name in (*PARAMETERS, "buffer")]
    kinds = ("parameter", "parameter", "buffer")
    layout = plan(
        (storage.bytes, (TensorPlace(name, kind, "uint8", (storage.bytes,), (1,), 0),))
        for name, kind, storage in zip((*PARAMETERS, "buffer"), kinds, storages, strict=True)
    )
    read = cuda_memory.read_storage(runtime, storages)
    image = open_image(write_image(folder, "k-l.image", layout, {}, read))
    cuda = CudaMemory(image, storages, allocator, runtime, logging.getLogger("test"))
    return World(allocator, runtime, cuda, SleepCycle(cuda), live)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    return make(tmp_path, Runtime())


def test_every_live_byte_of_the_pool_comes_back(world: World) -> None:
    before = world.content()
    for _ in range(2):
        world.cycle.suspend()
        assert bytes(memory.view_of(world.live["p2"][0], 4)) == bytes([LOST]) * 4
        world.cycle.resume()
        assert world.content() == before


def test_what_changed_since_the_image_was_written_comes_back_as_it_was(world: World) -> None:
    world.cycle.suspend()
    world.cycle.resume()
    memory.view_of(world.live["workspace"][0], 5)[:] = b"later"
    memory.view_of(world.live["buffer"][0], 5)[:] = b"newer"
    before = world.content()
    world.cycle.suspend()
    world.cycle.resume()
    assert world.content() == before


def test_a_sleep_copies_no_weight(world: World) -> None:
    world.runtime.library.copied = 0
    world.cycle.suspend()
    assert world.runtime.library.copied == world.cuda.rest_bytes == 70_000 + 512
    assert world.cuda.freed_bytes == 4_000_000


def test_the_cache_alone_can_be_dropped(world: World) -> None:
    before = world.content()
    world.cycle.suspend(["kv_cache"])
    assert world.content() == before
    world.cycle.suspend()
    world.cycle.resume(["weights"])
    assert world.content() == before
    with pytest.raises(Asleep):
        world.cycle.require_awake("step")
    world.cycle.resume()
    world.cycle.require_awake("step")


def test_a_sleep_that_fails_halfway_brings_all_back(world: World) -> None:
    before = world.content()
    unmapped = []
    world.allocator.fails = lambda what, tag: what == "unmap" and (unmapped.append(tag) or len(unmapped) == 2)
    with pytest.raises(SuspendFailed, match="all is back"):
        world.cycle.suspend()
    world.allocator.fails = lambda *_: False
    assert world.content() == before
    world.cycle.require_awake("step")


def test_a_copy_that_fails_before_frees_nothing(world: World) -> None:
    before = world.content()
    world.runtime.library.fails_after = world.runtime.library.copied + 1
    with pytest.raises(SuspendFailed, match="nothing was freed"):
        world.cycle.suspend()
    assert world.content() == before
    assert not any(data.is_asleep for data in world.allocator.pointer_to_data.values())


@pytest.mark.parametrize("fails", ["map", "copy"])
def test_a_wake_that_fails_can_be_tried_again(world: World, fails: str) -> None:
    before = world.content()
    world.cycle.suspend()
    if fails == "map":
        world.allocator.fails = lambda what, tag: what == "map" and tag == "kv_cache"
    else:
        world.runtime.library.fails_after = world.runtime.library.copied + 1
    with pytest.raises(RuntimeError):
        world.cycle.resume()
    with pytest.raises(Asleep):
        world.cycle.require_awake("step")
    world.allocator.fails, world.runtime.library.fails_after = lambda *_: False, None
    world.cycle.resume()
    assert world.content() == before


def test_memory_that_another_took_meanwhile_breaks_it(world: World) -> None:
    world.allocator.fails = lambda what, tag: what == "map" or tag == "kv_cache"
    with pytest.raises(Broken):
        world.cycle.suspend()


def test_an_image_that_cannot_be_pinned_costs_speed_alone(tmp_path: Path) -> None:
    world = make(tmp_path, Runtime(pins=False))
    assert not world.cuda.registered
    world.runtime.synchronize()
    before = world.content()
    world.cycle.suspend()
    world.cycle.resume()
    assert world.content() == before


def test_a_parameter_outside_the_pool_is_left_alone(tmp_path: Path) -> None:
    world = make(tmp_path, Runtime())
    outside = Storage(memory.map_anonymous(64).address, 64)
    image: Image = world.cuda._image
    first = image.layout.storages[0]
    cuda = CudaMemory(
        Image(image.path, type(image.layout)((first,), 0, 0), {}, image.mapping, image.start),
        [outside],
        world.allocator,
        world.runtime,
        logging.getLogger("test"),
    )
    assert cuda.freed_bytes == 0


def test_a_pool_that_cannot_be_told_is_live_as_a_whole(world: World) -> None:
    world.allocator.pool.segments = []
    segments = sorted(a for a, d in world.allocator.pointer_to_data.items() if d.tag == "weights")
    assert live_ranges(world.allocator) == [(address, SEGMENT) for address in segments]


@pytest.mark.parametrize(
    ("covered", "left"),
    [
        ([], [(10, 10)]),
        ([(10, 10)], []),
        ([(0, 100)], []),
        ([(12, 3)], [(10, 2), (15, 5)]),
        ([(5, 7), (18, 50)], [(12, 6)]),
        ([(20, 5), (0, 10)], [(10, 10)]),
        ([(16, 1), (11, 1)], [(10, 1), (12, 4), (17, 3)]),
    ],
)
def test_what_is_left_of_a_range(covered: list[tuple[int, int]], left: list[tuple[int, int]]) -> None:
    assert subtract([(10, 10)], covered) == left


def test_what_is_left_of_many_ranges_that_overlap() -> None:
    """Against each byte on its own, ranges in any order, within and over each other."""
    chance = random.Random(1)
    for _ in range(300):
        ranges, covered = ([(chance.randrange(60), chance.randrange(12)) for _ in range(chance.randrange(8))] for _ in range(2))
        held = {at for start, length in ranges for at in range(start, start + length)}
        gone = {at for start, length in covered for at in range(start, start + length)}
        left = subtract(ranges, covered)
        assert {at for start, length in left for at in range(start, start + length)} == held - gone
        assert all(start + length <= following for (start, length), (following, _) in itertools.pairwise(left))
        assert all(length > 0 for _, length in left)


def lines_run(count: int) -> int:
    """Of Python, in `subtract`, for a model of so many tensors with a buffer behind each."""
    ran = 0

    def trace(frame: FrameType, what: str, _: object) -> object:
        nonlocal ran
        ran += what == "line"
        return trace if frame.f_code.co_name in ("subtract", "trace") else None

    tensors, buffers = ([(at * 4096 + within, 512) for at in range(count)] for within in (0, 3072))
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        left = subtract(tensors + buffers, tensors)
    finally:
        sys.settrace(before)
    assert left == buffers
    return ran


def test_four_times_the_tensors_are_four_times_the_work() -> None:
    assert lines_run(800) < 5 * lines_run(200)
