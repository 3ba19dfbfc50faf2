"""vLLM's own allocator and CUDA's own calls under gthread's memory, in this process."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

GIB = 1024**3
LAYERS, WIDTH = 16, 8192  # 2 GiB of bfloat16


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    """A model in the weights' pool, beside a buffer and a tensor without a name, and a KV cache."""
    import torch
    from gthread import cuda_memory, image_file, tensors
    from gthread.sleep_cycle import SleepCycle
    from vllm.device_allocator.cumem import CuMemAllocator

    class World:
        pass

    made = World()
    allocator = CuMemAllocator.get_instance()
    with allocator.use_memory_pool("weights"):
        made.model = torch.nn.ModuleList(
            torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.bfloat16, device="cuda") for _ in range(LAYERS)
        )
        made.model.register_buffer("table", torch.randn(1000, device="cuda"))
        made.nameless = torch.randn(1_000_000, device="cuda")
    with allocator.use_memory_pool("kv_cache"):
        made.cache = torch.zeros(GIB, dtype=torch.uint8, device="cuda")
    runtime = cuda_memory.CudaRuntime()
    layout, storages = tensors.layout_of(tensors.collect(made.model, None, "cuda"))
    folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path_factory.mktemp("image")
    read = cuda_memory.read_storage(runtime, storages)
    path = image_file.write_image(folder, "gthread-device-test.image", layout, {}, read)
    made.image = image_file.open_image(path)
    path.unlink()
    made.memory = cuda_memory.CudaMemory(made.image, storages, allocator, runtime, logging.getLogger("gthread"))
    made.cycle, made.runtime = SleepCycle(made.memory), runtime
    return made


def digest(world) -> list[float]:
    """Exact sums of the raw bits of all that must live through a sleep."""
    import torch

    held = [*world.model.parameters(), *world.model.buffers(), world.nameless]
    return [int(tensor.detach().view(torch.uint8).to(torch.int64).sum()) for tensor in held]


def test_every_byte_comes_back_and_memory_is_free_between(world) -> None:
    import torch

    before = digest(world)
    weights = sum(parameter.nbytes for parameter in world.model.parameters())
    for _ in range(3):
        free_awake = torch.cuda.mem_get_info()[0]
        since = time.perf_counter()
        world.cycle.suspend()
        slept = time.perf_counter()
        free_asleep = torch.cuda.mem_get_info()[0]
        assert free_asleep - free_awake >= weights + GIB - 64 * 1024**2
        waking = time.perf_counter()
        world.cycle.resume()
        woken = time.perf_counter()
        assert digest(world) == before
        print(
            f"sleep {1e3 * (slept - since):.1f} ms, wake {1e3 * (woken - waking):.1f} ms, "
            f"{weights / 1e9 / (woken - waking):.1f} GB/s, "
            f"pinned: {world.memory.registered}, copied at sleep: {world.memory.rest_bytes} bytes"
        )


def test_only_what_no_image_has_is_copied_at_sleep(world) -> None:
    world.cycle.suspend()
    world.cycle.resume()
    assert world.memory.rest_bytes < 64 * 1024**2
    assert world.memory.freed_bytes == sum(parameter.nbytes for parameter in world.model.parameters())


def test_the_image_can_be_pinned_read_only(world) -> None:
    """If not, wakes are right all the same and slower: the driver's word on cudaHostRegisterReadOnly (gpu's attribute
    cudaDevAttrHostRegisterReadOnlySupported)."""
    assert world.memory.registered


def test_a_kernel_runs_after_a_refused_registration(world) -> None:
    """CUDA keeps the refusal for whoever asks next: torch, which would blame its kernel."""
    import torch

    mapping = world.image.mapping
    assert world.memory.registered or not world.runtime.register(mapping.address, mapping.bytes)
    assert not world.runtime.register(mapping.address, mapping.bytes)
    assert torch.ones(1000, device="cuda").sum().item() == 1000
