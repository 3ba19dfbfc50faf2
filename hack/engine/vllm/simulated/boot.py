"""How the engine comes up: it takes memory in vLLM's order and dies of what vLLM dies of."""

import asyncio
import json
import math
import os
import time
from dataclasses import dataclass

from . import memory

GIB = 1 << 30
SLICE_SECONDS = 0.02
# Smaller weight files are a test's stand-in: the weights are then taken for half of what the engine may use.
WEIGHTS_BYTES_MIN = 64 << 20
DEFAULT_MODEL_LEN = 4096
# What is held from which part of the boot on: the context, then weights, then a profiling run, then the KV cache.
STAGES = ((0.0, 0, 0), (0.1, 0.25, 0), (0.25, 0.5, 0), (0.4, 1, 0), (0.6, 1, 0.2), (0.8, 1, 1))
FREED_BYTES_MIN = memory.MIB


class BootError(RuntimeError):
    """What vLLM would end with; `kind` is how vLLM calls it."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Plan:
    """What the engine holds on each GPU, bytes."""

    need: int
    residue: int
    weights: int
    kv_cache: int


def model_config(folder):
    """config.json of the model's folder."""
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except FileNotFoundError:
        raise BootError(
            "OSError",
            f"Can't load the configuration of '{folder}'. Make sure '{folder}' is the correct path to a directory "
            "containing a config.json file",
        ) from None
    except (OSError, ValueError) as error:
        raise BootError("OSError", f"It looks like the config file at '{path}' is not a valid JSON file. {error}") from error
    if not isinstance(config, dict):
        raise BootError("OSError", f"It looks like the config file at '{path}' is not a valid JSON file.")
    return config


def model_length(config, wanted):
    """The context length in tokens."""
    longest = config.get("max_position_embeddings") or DEFAULT_MODEL_LEN
    if wanted is None or wanted == -1:
        return longest
    if wanted > longest and os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") != "1":
        raise BootError(
            "pydantic_core._pydantic_core.ValidationError",
            f"User-specified max_model_len ({wanted}) is greater than the derived max_model_len "
            f"(max_position_embeddings={longest}). To allow overriding this maximum, set the env var "
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1",
        )
    return wanted


def plan(gpu, flags, settings):
    """How the engine's share of a GPU divides."""
    need = math.ceil(gpu.total * flags.gpu_memory_utilization)
    residue = min(int(settings["residueMiB"] * memory.MIB), need)
    weights = int(settings["weightsMiB"] * memory.MIB) or _weight_files(flags.model)
    world = flags.tensor_parallel_size * flags.pipeline_parallel_size
    weights = weights // world or (need - residue) // 2
    if weights >= need - residue:
        raise BootError(
            "ValueError",
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.",
        )
    return Plan(need, residue, weights, need - residue - weights)


def _weight_files(folder):
    total = 0
    for entry in os.scandir(folder):
        if entry.name.endswith((".safetensors", ".bin", ".gguf")):
            total += entry.stat().st_size
    return total if total >= WEIGHTS_BYTES_MIN else 0


def gpus_for(flags, environment):
    """The GPUs this engine uses; BootError when there are too few."""
    world = flags.tensor_parallel_size * flags.pipeline_parallel_size
    gpus = memory.visible(environment, world)
    if not gpus:
        raise BootError("RuntimeError", "Failed to infer device type: no working GPU is visible (is NVIDIA_VISIBLE_DEVICES set?)")
    if len(gpus) < world:
        raise BootError(
            "ValueError",
            f"World size ({world}) is larger than the number of available GPUs ({len(gpus)}) in this node.",
        )
    return gpus


def check_free(gpu, wanted, utilization):
    """vLLM's first look at the GPU."""
    free = gpu.free()
    if free >= wanted:
        return
    memory.report(gpu, "start-refused", {"wantedBytes": wanted, "freeBytes": free})
    raise BootError(
        "ValueError",
        f"Free memory on device cuda:{gpu.position} ({free / GIB:.2f}/{gpu.total / GIB:.2f} GiB) on startup is less than desired GPU "
        f"memory utilization ({utilization}, {wanted / GIB:.2f} GiB). Decrease GPU memory utilization or reduce GPU memory "
        "used by other processes.",
    )


class Watch:
    """Memory that others give back while we profile: vLLM's arithmetic breaks, and so does it."""

    def __init__(self, gpus):
        self._gpus = gpus
        self._others = [gpu.others() for gpu in gpus]

    def look(self):
        for i, gpu in enumerate(self._gpus):
            others = gpu.others()
            if others < self._others[i] - FREED_BYTES_MIN:
                before = gpu.capacity - self._others[i]
                after = gpu.capacity - others
                memory.report(gpu, "grew-while-boot", {"freeBeforeBytes": before, "freeBytes": after})
                raise BootError(
                    "AssertionError",
                    f"Error in memory profiling. Initial free memory {before / GIB:.2f} GiB, current free memory {after / GIB:.2f} GiB. "
                    "This happens when other processes sharing the same container release GPU memory while vLLM is "
                    "profiling during initialization. To fix this, ensure consistent GPU memory allocation or "
                    "isolate vLLM in its own container.",
                )
            self._others[i] = others


async def take_memory(gpus, shares, settings, utilization):
    """Goes through the boot; ends with every claim at its full size."""
    watch = Watch(gpus)
    for gpu in gpus:
        check_free(gpu, shares.need, utilization)
        gpu.open_claim()
    if settings["hang"] == "boot":
        await asyncio.Event().wait()
    started, stage = time.monotonic(), -1
    while True:
        part = 1.0 if settings["bootSeconds"] <= 0 else (time.monotonic() - started) / settings["bootSeconds"]
        while stage + 1 < len(STAGES) and part >= STAGES[stage + 1][0]:
            stage += 1
            _hold(gpus, shares, STAGES[stage])
        watch.look()
        if part >= 1.0:
            return
        await asyncio.sleep(SLICE_SECONDS)


def _hold(gpus, shares, stage):
    _, weights, kv_cache = stage
    wanted = shares.residue + int(shares.weights * weights) + int(shares.kv_cache * kv_cache)
    for gpu in gpus:
        try:
            gpu.hold(wanted)
        except memory.OutOfMemory as error:
            memory.report(gpu, "out-of-memory-on-boot", {"wantedBytes": error.wanted, "freeBytes": error.free})
            raise BootError("torch.OutOfMemoryError", str(error)) from error
