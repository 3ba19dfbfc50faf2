"""One way to bring a model's weights into host memory, timed. It says `ready`, waits for a line, and prints what it took as JSON.

load.py default FILE...            safetensors' mmap, each tensor copied into one of its own, as vLLM's default loader does
load.py runai FILE...              runai-model-streamer
load.py fastsafetensors FILE...    fastsafetensors
load.py copy FORM STAGED           out of the pool while the agent still fills it, each tensor into memory of its own
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

Load = Callable[[list[str]], int]


def copied(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor).copy_(tensor)


def default_loader(files: list[str]) -> int:
    from safetensors import safe_open

    kept = []
    for file in files:
        with safe_open(file, framework="pt") as opened:
            kept += [copied(opened.get_tensor(name)) for name in opened.keys()]  # noqa: SIM118 (not a dict)
    return sum(tensor.nbytes for tensor in kept)


def runai(files: list[str]) -> int:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(files)
        return sum(tensor.nbytes for _, tensor in streamer.get_tensors())


def fastsafetensors(files: list[str]) -> int:
    loader = SafeTensorsFileLoader(None, device="cpu", nogds=True)
    loader.add_filenames({0: files})
    try:
        buffer = loader.copy_files_to_device()
        return sum(buffer.get_tensor(name).nbytes for name in list(buffer.key_to_rank_lidx))
    finally:
        loader.close()


def copy_out(folders: list[str]) -> int:
    form, staged = (Path(folder) for folder in folders)
    manifest = read_manifest(form)
    kept = []
    for tensor, data in tensors(form, staged, manifest, lambda text: print(text, file=sys.stderr)):
        kept.append(torch.frombuffer(data, dtype=torch.uint8))
        assert data.nbytes == tensor.bytes
    return sum(tensor.nbytes for tensor in kept)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    kind, *given = sys.argv[1:]
    loads: dict[str, Load] = {"default": default_loader, "runai": runai, "fastsafetensors": fastsafetensors, "copy": copy_out}
    load = loads[kind]
    # What is imported is no part of what is measured.
    if kind == "default":
        import safetensors.torch  # noqa: F401
    elif kind == "runai":
        from runai_model_streamer import SafetensorsStreamer
    elif kind == "fastsafetensors":
        from fastsafetensors import SafeTensorsFileLoader
    else:
        sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "vllm"))
        from gthread.weights_source import read_manifest, tensors
    print("ready", flush=True)
    sys.stdin.readline()
    began, cpu = time.perf_counter(), cpu_seconds()
    loaded = load(given)
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "cpuSeconds": cpu_seconds() - cpu, "bytes": loaded}), flush=True)
